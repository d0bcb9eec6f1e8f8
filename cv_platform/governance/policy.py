"""The policy: how long each class of data is kept, what is hidden, what is looked for, per site and camera.

A YAML file, validated whole: an unknown word is an error, not a rule that silently does nothing. A camera's section
overrides its site's, which overrides the defaults, word by word. The version in force is kept in the ledger.
"""

from __future__ import annotations

import hashlib
import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError, field_validator

_UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400, "y": 365 * 86400}
_BYTES = {"": 1, "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|h|d|y)")


class PolicyError(ValueError):
    """A policy that cannot be used; the message names each place and says what is allowed."""


def parse_duration(value: object) -> timedelta:
    """`72h`, `30d`, `5min`, `7y` (365 days a year), `90s` as a timedelta. Raises ValueError."""
    if isinstance(value, timedelta):
        return value
    found = _DURATION.fullmatch(str(value).strip())
    if found is None:
        raise ValueError(f"{value!r} is no duration; allowed: a number and s, min, h, d or y, such as 72h")
    return timedelta(seconds=float(found[1]) * _UNITS[found[2]])


def format_duration(value: timedelta) -> str:
    """The inverse of `parse_duration`, in the largest unit that is exact."""
    seconds = value.total_seconds()
    for unit in ("y", "d", "h", "min", "s"):
        if seconds >= _UNITS[unit] and seconds % _UNITS[unit] == 0:
            return f"{int(seconds // _UNITS[unit])}{unit}"
    return f"{seconds:g}s"


def parse_size(value: object) -> int:
    """`500GB`, `2TiB`, `750MB`, or a number of bytes. Raises ValueError."""
    found = _SIZE.fullmatch(str(value).strip())
    if found is None or found[2] not in _BYTES:
        raise ValueError(
            f"{value!r} is no size; allowed: a number and B, kB, MB, GB, TB, MiB, GiB or TiB, such as 500GB"
        )
    return int(float(found[1]) * _BYTES[found[2]])


Duration = Annotated[timedelta, BeforeValidator(parse_duration), PlainSerializer(format_duration, return_type=str)]
Size = Annotated[int, BeforeValidator(parse_size)]
Share = Annotated[float, Field(ge=0, le=1)]
Polygon = Annotated[list[tuple[Share, Share]], Field(min_length=3)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Keep(_Section):
    """How long each class of data is kept."""

    raw: Duration = timedelta(hours=72)
    frames: Duration = timedelta(hours=24)
    quarantine: Duration = timedelta(days=30)
    hot: Duration = timedelta(minutes=5)
    warm: Duration = timedelta(days=90)
    cold: Duration = timedelta(days=7 * 365)
    audit: Duration = timedelta(days=7 * 365)
    previews: Duration = timedelta(days=30)
    logs: Duration = timedelta(days=30)
    embeddings: Duration = timedelta(hours=1)

    @field_validator("*")
    @classmethod
    def _positive(cls, value: timedelta) -> timedelta:
        if value <= timedelta(0):
            raise ValueError("a duration must be longer than nothing; 1s is the shortest that means anything")
        return value


class Quota(_Section):
    """The most bytes that a store may hold; the oldest that no hold covers goes first."""

    restricted: Size | None = None
    cold: Size | None = None


class Hide(_Section):
    """What is hidden in published clips."""

    classes: list[str] = Field(default=["face"], description="Class names: face, licence plate, person, …")
    method: Literal["solid", "mosaic", "blur"] | None = Field(
        None, description="Empty: solid where the camera watches a public area, else mosaic."
    )
    audio: Literal["drop", "keep"] = "drop"
    zones: list[Polygon] = Field(default=[], description="Polygons in 0..1 that are always hidden.")
    verify_rate_hz: Annotated[float, Field(gt=0)] = 4.0


class Sample(_Section):
    """Which frames are looked at."""

    fps: Annotated[float, Field(gt=0)] | None = Field(None, description="Frames sampled a second; empty: the setting.")
    long_side: Annotated[int, Field(ge=64)] | None = Field(None, description="Pixels; empty: the setting.")


class Look(_Section):
    """What is looked for."""

    classes: list[str] | None = Field(None, description="Class names to keep; empty: all that the detectors know.")
    min_confidence: Share = 0.0
    min_size_px: Annotated[float, Field(ge=0)] = Field(0.0, description="Shorter side of a box, frame pixels.")
    region: list[Polygon] = Field(
        default=[], description="Polygons in 0..1; boxes whose foot, the middle of the lower edge, is in none go."
    )


class Rules(_Section):
    """All that is ruled for one camera."""

    keep: Keep = Keep()
    hide: Hide = Hide()
    sample: Sample = Sample()
    look: Look = Look()
    public_area: bool = Field(False, description="Raw and frames go once the blurred clip is certified, at most 24 h.")

    @property
    def hide_method(self) -> Literal["solid", "mosaic", "blur"]:
        """The method in force."""
        return self.hide.method or ("solid" if self.public_area else "mosaic")


class Site(BaseModel):
    """A site's own words over the defaults."""

    model_config = ConfigDict(extra="allow", frozen=True)

    time_zone: str = "UTC"
    controller: str | None = None
    quota: Quota = Quota()
    cameras: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @field_validator("time_zone")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError):
            raise ValueError(f"{value!r} is no time zone; allowed: an IANA name such as Europe/Berlin") from None
        return value


class Policy:
    """A whole policy, ready to be asked.

    Args:
        document: the parsed file; an empty one means the defaults for everything.

    Raises:
        PolicyError: everything that is wrong with it, in one message.
    """

    def __init__(self, document: dict[str, Any] | None = None) -> None:
        self.document: dict[str, Any] = document or {}
        problems: list[str] = []
        if not isinstance(self.document, dict):
            raise PolicyError("a policy is a mapping with the words defaults and sites")
        for word in self.document.keys() - {"defaults", "sites", "quota"}:
            problems.append(f"{word}: unknown; allowed at the top: defaults, sites, quota")
        self.quota = Quota()
        try:
            self.quota = Quota.model_validate(self.document.get("quota") or {})
        except ValidationError as error:
            problems.extend(_told("quota", error))
        self._defaults: dict[str, Any] = self.document.get("defaults") or {}
        self.default_rules = _rules("defaults", self._defaults, problems)
        self.sites: dict[str, Site] = {}
        self._rules: dict[tuple[str, str | None], Rules] = {}
        sites = self.document.get("sites") or {}
        for name, raw in (sites if isinstance(sites, dict) else {}).items():
            self._read_site(str(name), raw or {}, problems)
        if problems:
            raise PolicyError("the policy cannot be used:\n" + "\n".join(f"  - {problem}" for problem in problems))

    def _read_site(self, name: str, raw: Any, problems: list[str]) -> None:
        try:
            site = Site.model_validate(raw)
        except ValidationError as error:
            problems.extend(_told(f"sites.{name}", error))
            return
        self.sites[name] = site
        own = {key: value for key, value in raw.items() if key not in Site.model_fields}
        merged = _merge(self._defaults, own)
        self._rules[name, None] = _rules(f"sites.{name}", merged, problems)
        for camera, words in site.cameras.items():
            self._rules[name, camera] = _rules(f"sites.{name}.cameras.{camera}", _merge(merged, words or {}), problems)

    @classmethod
    def parse(cls, text: str) -> Policy:
        """Read YAML. Raises PolicyError."""
        try:
            return cls(yaml.safe_load(text) or {})
        except yaml.YAMLError as error:
            raise PolicyError(f"the policy is no YAML: {error}") from None

    @classmethod
    def read(cls, path: Path | None) -> Policy:
        """Read a file; None gives the defaults. Raises PolicyError, FileNotFoundError."""
        return cls() if path is None else cls.parse(path.read_text("utf-8"))

    def rules_for(self, site_id: str | None, camera_id: str | None = None) -> Rules:
        """What is ruled for a camera, a site, or, with neither, by default."""
        for key in ((site_id, camera_id), (site_id, None)):
            if key in self._rules:
                return self._rules[key]  # type: ignore[index]  # a key of None is in no site
        return self.default_rules

    def time_zone(self, site_id: str) -> str:
        """The site's IANA time zone."""
        return self.sites[site_id].time_zone if site_id in self.sites else "UTC"

    def all_rules(self) -> dict[str, Rules]:
        """Rules by place, `site` or `site/camera`, as far as the file names places; `*` is everything else."""
        named = {site if camera is None else f"{site}/{camera}": rules for (site, camera), rules in self._rules.items()}
        return {"*": self.default_rules, **named}

    def canonical(self) -> str:
        """The same rules give the same text, however the file is written."""
        places = {place: rules.model_dump(mode="json") for place, rules in self.all_rules().items()}
        sites = {
            name: {"time_zone": site.time_zone, "controller": site.controller, "quota": site.quota.model_dump()}
            for name, site in self.sites.items()
        }
        return json.dumps({"rules": places, "sites": sites, "quota": self.quota.model_dump()}, sort_keys=True)

    @property
    def digest(self) -> str:
        """sha256 of the canonical text, hex."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()

    def digest_of(self, *sections: Literal["hide", "sample", "look", "public_area"]) -> str:
        """Digest of these sections alone: what makes work void, not how long its results are kept."""
        parts = {
            place: {name: rules.model_dump(mode="json")[name] for name in sections}
            for place, rules in self.all_rules().items()
        }
        default = parts["*"]
        told = {place: part for place, part in parts.items() if place == "*" or part != default}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _rules(place: str, raw: Any, problems: list[str]) -> Rules:
    try:
        rules = Rules.model_validate(raw)
    except ValidationError as error:
        problems.extend(_told(place, error))
        return Rules()
    if rules.public_area:
        # Faces of passers-by: nothing that shows them outlives a day, whatever the file says.
        day = timedelta(hours=24)
        keep = rules.keep.model_copy(update={"raw": min(rules.keep.raw, day), "frames": min(rules.keep.frames, day)})
        rules = rules.model_copy(update={"keep": keep})
    return rules


def _merge(below: Any, above: Any) -> Any:
    if isinstance(below, dict) and isinstance(above, dict):
        return {key: _merge(below.get(key), above[key]) if key in above else below[key] for key in below | above}
    return below if above is None else above


def _told(place: str, error: ValidationError) -> list[str]:
    told = []
    for problem in error.errors():
        where = ".".join([place, *(str(part) for part in problem["loc"])])
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = "unknown word; `cv-platform policy show` prints all that there are"
        told.append(f"{where}: {message}")
    return told
