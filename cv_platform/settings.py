"""Every environment variable, typed, in one class. Read once where a process starts; passed on as a value.

Addresses left empty mean the embedded stack (`cv-platform up` starts it and sets them for its children); an address
that is set is used as it stands and nothing embedded is started for it.
"""

from __future__ import annotations

from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """The platform's settings; each is the environment variable `CV_PLATFORM_<NAME IN CAPITALS>`."""

    model_config = SettingsConfigDict(env_prefix="CV_PLATFORM_", env_ignore_empty=True, frozen=True)

    # where things are
    state_dir: Path = Field(Path(".cv_platform"), description="Folder of the embedded stack: servers, objects, caches.")
    postgres_url: str | None = Field(
        None, description="PostgreSQL of ledger and warehouse, `postgresql://…`; empty: the embedded server."
    )
    dagster_postgres_url: str | None = Field(
        None, description="PostgreSQL of Dagster's own storage, `postgresql+psycopg2://…`; empty: the embedded server."
    )
    redis_url: str | None = Field(None, description="Redis, `redis://…` or `unix://…`; empty: the embedded server.")
    object_store_url: str | None = Field(
        None, description="Cold store: `file:///folder` or `s3://bucket/prefix`; empty: a folder in `state_dir`."
    )
    restricted_store_url: str | None = Field(
        None, description="Store of raw clips, frames, quarantine (faces are visible); empty: as `object_store_url`."
    )
    s3_endpoint_url: str | None = Field(None, description="S3 endpoint where it is not Amazon's (moto, MinIO).")
    restricted_s3_access_key_id: str | None = Field(
        None, description="Own credentials of the restricted store; empty: the usual AWS_* ones."
    )
    restricted_s3_secret_access_key: SecretStr | None = Field(None, description="Belongs to the key id above.")
    s3_region: str = Field("us-east-1", description="S3 and SQS region.")
    sqs_queue_url: str | None = Field(
        None, description="Queue of S3 event notifications; empty: the raw prefix is listed."
    )
    model_dir: Path | None = Field(None, description="Folder with model files, looked in before cache and download.")
    model_cache_dir: Path | None = Field(None, description="Cache of fetched models; empty: `state_dir`/models.")
    fetch_models: bool = Field(
        True, description="Whether a model that is in neither folder is fetched from its source, pinned by its digest."
    )
    work_root: Path | None = Field(
        None, description="The one folder (mode 0700) for temporary raw bytes; empty: `state_dir`/work."
    )

    key_encryption_key: str | None = Field(
        None,
        description="Where the key is that wraps clips' keys: `file:PATH`, `env:NAME` or `kms:KEY_ID`; empty: a file in"
        " `state_dir`, made at first use, where all stores are folders.",
    )
    previous_key_encryption_keys: str | None = Field(
        None,
        description="Those that wrapped clips' keys before, joined by `,`, until `cv-platform keys rotate` is done.",
    )
    signing_key_file: Path | None = Field(
        None,
        description="Ed25519 key (PEM) that signs certificates of erasure; empty: a file in `state_dir`, made at first"
        " use where all stores are folders.",
    )
    policy_file: Path | None = Field(
        None, description="The policy (YAML): retention, what is hidden, what is looked for; empty: its defaults."
    )

    # the graph
    partitions_start: date = Field(date(2024, 1, 1), description="First capture date that is accepted (UTC).")
    lease_s: PositiveFloat = Field(120.0, description="How long a claim on a clip lasts without renewal.")
    max_attempts: PositiveInt = Field(3, description="Transient failures of one stage before a clip is quarantined.")
    retry_base_s: PositiveFloat = Field(15.0, description="Delay before the second attempt; doubles each time.")
    min_run_interval_s: float = Field(300.0, ge=0, description="Least time between two run requests for one scope.")
    sensor_interval_s: PositiveInt = Field(30, description="Least time between two ticks of a sensor.")
    max_uploads_per_tick: PositiveInt = Field(10_000, description="Uploads registered by one tick of `new_uploads`.")
    max_requests_per_tick: PositiveInt = Field(20, description="Runs asked for by one tick of `pending_work`.")

    # frames
    frames_fps: PositiveFloat = Field(5.0, description="Frames sampled a second of footage.")
    frames_long_side: PositiveInt = Field(960, description="Longer side of sampled frames, pixels; never enlarged.")

    # limits of what is accepted
    max_clip_bytes: PositiveInt = Field(4 * 2**30, description="Largest clip, bytes.")
    max_clip_duration_s: PositiveFloat = Field(4 * 3600.0, description="Longest clip, seconds.")
    max_clip_pixels: PositiveInt = Field(4096 * 4096, description="Most pixels a frame.")
    decode_timeout_s: PositiveFloat = Field(
        3600.0, description="Longest time one clip may spend in a decoder; each frame that comes of it adds 0.25 s."
    )
    max_clock_skew_s: float = Field(300.0, ge=0, description="How far in the future a capture time may lie.")

    # models
    detectors: str = Field(
        "auto",
        description="Detectors to run and fuse, names of `models.yaml` joined by `+`; `auto`: the best there is.",
    )
    face_detector: str = Field("centerface", description="Model that finds faces to hide.")
    face_verifier: str = Field("auto", description="Second model that checks; `auto`: the best that can be had.")
    inference_backend: Literal["onnx", "torch"] = Field(
        "onnx", description="What runs the detectors of `detections`: onnx (processor), torch (GPU; extra `torch`)."
    )
    frames_decoder: Literal["cpu", "auto"] = Field(
        "cpu",
        description="What decodes clips in `decoded_frames`: cpu (each in a sandbox of its own), auto (a GPU where that"
        " can; for uploads that are trusted; extra `gpu`).",
    )
    inference_threads: int = Field(0, ge=0, description="ONNX Runtime threads a session; 0: all cores.")
    tracker: Literal["default", "twostage", "sort", "bytetrack", "ocsort"] = Field(
        "default", description="Tracker of the `tracks` asset; default is twostage."
    )
    tracker_parameters: str | None = Field(
        None,
        description="The tracker's parameters, `NAME=VALUE` joined by `,`, such as `max_age=30,match_threshold=0.25`;"
        " empty: its own defaults. Its class says which there are.",
    )
    track_gap_s: float = Field(
        10.0, gt=0, le=86_400, description="A gap between clips over this starts a new segment; a day at most."
    )

    # analysts
    suppression_k: PositiveInt = Field(5, description="Cells of the aggregate marts under this count are suppressed.")
    analyst_password: SecretStr | None = Field(
        None, description="Password of the role `analyst`; empty: it has no login."
    )

    # one machine
    ui_port: PositiveInt = Field(3000, description="Port of the Dagster UI on 127.0.0.1; taken: the next free one.")

    # execution
    executor: Literal["in_process", "k8s"] = Field("in_process", description="Where a run's steps execute.")
    log_format: Literal["auto", "text", "json"] = Field(
        "auto",
        description="Log lines of runs and steps: text, or a JSON object a line; `auto`: JSON where `executor` is k8s.",
    )
    event_log_days: PositiveInt = Field(
        30, description="Days for which Dagster's events are kept; the newest of each asset's partition always."
    )
    hot_ttl_s: PositiveInt = Field(300, description="How long current detections stay in Redis, seconds.")

    @field_validator("postgres_url")
    @classmethod
    def _plain_postgres(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("postgresql://", "postgres://")):
            raise ValueError(
                f"CV_PLATFORM_POSTGRES_URL starts with {value.split(':', 1)[0]!r}; allowed is postgresql://user@host/database"
            )
        return value

    @field_validator("tracker_parameters")
    @classmethod
    def _named_values(cls, value: str | None) -> str | None:
        if value is not None:
            _parameters(value)
        return value

    @property
    def tracker_arguments(self) -> dict[str, int | float | str]:
        """`tracker_parameters` by name: whole numbers, other numbers, and words."""
        return _parameters(self.tracker_parameters or "")

    @property
    def json_lines(self) -> bool:
        """Whether log lines are JSON."""
        return self.log_format == "json" or (self.log_format == "auto" and self.executor == "k8s")

    @property
    def model_cache(self) -> Path:
        """Where fetched models are kept."""
        return self.model_cache_dir or self.state_dir / "models"

    @property
    def scratch(self) -> Path:
        """The one folder in which raw bytes may touch a disk for a while."""
        return self.work_root or self.state_dir / "work"

    @property
    def store_url(self) -> str:
        """Where published clips, Parquet and previews go."""
        return self.object_store_url or (self.state_dir.resolve() / "store").as_uri()

    @property
    def raw_store_url(self) -> str:
        """Where raw clips, frames and quarantine are."""
        return self.restricted_store_url or self.store_url


def _parameters(text: str) -> dict[str, int | float | str]:
    """`a=1,b=0.5,c=word` as a dictionary."""
    found: dict[str, int | float | str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = (piece.strip() for piece in part.partition("="))
        if not name.isidentifier() or not value or name in found:
            raise ValueError(f"{part!r} is no parameter; allowed is NAME=VALUE, each name once, joined by ','")
        found[name] = _number(value)
    return found


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The settings of this process, read from its environment once."""
    return Settings()
