"""Keys: one a clip, wrapped by a key-encryption key that lies elsewhere; how they are opened, wrapped anew, scrubbed.

Fails closed: where the key-encryption key is missing or another, nothing is sealed and nothing is opened.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import psycopg
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cv_platform import faults
from cv_platform.governance.audit import record
from cv_platform.governance.key_files import write_key_file
from cv_platform.settings import Settings
from cv_platform.storage.database import Database
from cv_platform.storage.ledger.clip_keys import (
    KeyDestroyed,
    KeyRetired,
    WrappedKey,
    create_key,
    keks_in_use,
    keys_not_under,
    read_key,
    register_kek,
    retire_keks,
    rewrap_keys,
)
from cv_platform.storage.sealed import KEY_BYTES, new_key

__all__ = ["ClipKeys", "KeyDestroyed", "KeyEncryptionKeyError", "open_clip_keys"]

DEFAULT_FILE: Final = "key-encryption-key"
"""In the state folder, where the setting is empty."""
_NONCE = 12
_CONTEXT = b"cv_platform clip key 1\0"
_VARIABLE = "CV_PLATFORM_KEY_ENCRYPTION_KEY"
_ALLOWED = "allowed: file:PATH, env:NAME, kms:KEY_ID"
_FORM = "32 bytes as 64 hexadecimal digits or as base64; `cv-platform keys new FILE` makes one"
_BATCH = 1000


class KeyEncryptionKeyError(Exception):
    """The key-encryption key is missing, unreadable or another: no clip's fault, and no clip's key can be opened."""


class KeyEncryptionKey(Protocol):
    """Wraps clips' keys."""

    @property
    def kek_id(self) -> str:
        """Names it in the ledger; tells nothing of it."""

    def opens(self, kek_id: str) -> bool:
        """Whether it opens what the one of that id has wrapped."""

    def wrap(self, key: bytes, clip_id: uuid.UUID) -> WrappedKey:
        """Wrap a clip's key for that clip alone."""

    def unwrap(self, key: WrappedKey, clip_id: uuid.UUID) -> bytes:
        """The inverse. Raises KeyEncryptionKeyError."""


@dataclass(frozen=True)
class LocalKey:
    """A key-encryption key that this process holds: AES-256-GCM, the clip's id authenticated."""

    secret: bytes = field(repr=False)

    @property
    def kek_id(self) -> str:
        """See `KeyEncryptionKey`; a digest, from which the key cannot be found."""
        return "local:" + hashlib.sha256(b"cv_platform key-encryption key\0" + self.secret).hexdigest()[:24]

    def opens(self, kek_id: str) -> bool:
        """See `KeyEncryptionKey`."""
        return kek_id == self.kek_id

    def wrap(self, key: bytes, clip_id: uuid.UUID) -> WrappedKey:
        """See `KeyEncryptionKey`."""
        nonce = os.urandom(_NONCE)
        return WrappedKey(nonce + AESGCM(self.secret).encrypt(nonce, key, _CONTEXT + clip_id.bytes), self.kek_id)

    def unwrap(self, key: WrappedKey, clip_id: uuid.UUID) -> bytes:
        """See `KeyEncryptionKey`."""
        try:
            return AESGCM(self.secret).decrypt(key.wrapped[:_NONCE], key.wrapped[_NONCE:], _CONTEXT + clip_id.bytes)
        except (InvalidTag, ValueError):
            raise KeyEncryptionKeyError("a clip's wrapped key in the ledger was changed or is another clip's") from None


class KmsKey:
    """A key in AWS KMS, which never leaves it: each wrapping and opening is one call.

    Args:
        key_id: id, ARN or alias.
        region: where it is. The endpoint and credentials are boto3's own (AWS_ENDPOINT_URL_KMS, AWS_*).
    """

    def __init__(self, key_id: str, *, region: str) -> None:
        import boto3

        self._key_id = key_id
        self._client: Any = boto3.client("kms", region_name=region)
        self._arn: str | None = None

    @property
    def kek_id(self) -> str:
        """See `KeyEncryptionKey`."""
        if self._arn is None:
            self._arn = str(_kms(self._client.describe_key, KeyId=self._key_id)["KeyMetadata"]["Arn"])
        return f"kms:{self._arn}"

    def opens(self, kek_id: str) -> bool:
        """See `KeyEncryptionKey`: KMS says itself who may use which key."""
        return kek_id.startswith("kms:")

    def wrap(self, key: bytes, clip_id: uuid.UUID) -> WrappedKey:
        """See `KeyEncryptionKey`."""
        kek_id = self.kek_id
        answer = _kms(
            self._client.encrypt,
            KeyId=kek_id.removeprefix("kms:"),
            Plaintext=key,
            EncryptionContext={"clip": str(clip_id)},
        )
        return WrappedKey(answer["CiphertextBlob"], kek_id)

    def unwrap(self, key: WrappedKey, clip_id: uuid.UUID) -> bytes:
        """See `KeyEncryptionKey`."""
        answer = _kms(
            self._client.decrypt,
            KeyId=key.kek_id.removeprefix("kms:"),
            CiphertextBlob=key.wrapped,
            EncryptionContext={"clip": str(clip_id)},
        )
        return bytes(answer["Plaintext"])


@dataclass(frozen=True)
class ClipKeys:
    """Clips' keys, opened for as long as a piece of work needs them; never kept, never logged.

    Attributes:
        current: wraps new keys.
        previous: only open what they wrapped before.
    """

    database: Database
    current: KeyEncryptionKey
    previous: tuple[KeyEncryptionKey, ...] = ()

    def key_for(self, clip_id: uuid.UUID) -> bytes:
        """The clip's key, made where it has none yet. Raises KeyDestroyed, KeyEncryptionKeyError."""
        with self.database.transaction() as connection:
            found = read_key(connection, clip_id)
        if found is None:
            fresh = self.current.wrap(new_key(), clip_id)
            faults.point("keys.before_create")
            try:
                with self.database.transaction() as connection:
                    found = create_key(connection, clip_id, fresh)
            except KeyRetired as retired:
                raise KeyEncryptionKeyError(str(retired)) from None
        return self._unwrap(found, clip_id)

    def open(self, clip_id: uuid.UUID) -> bytes:
        """The key of a clip for which something was sealed. Raises KeyDestroyed, KeyEncryptionKeyError."""
        with self.database.transaction() as connection:
            found = read_key(connection, clip_id)
        if found is None:
            raise KeyDestroyed("the ledger holds no key for the clip")
        return self._unwrap(found, clip_id)

    def rotate(self, *, actor: str) -> tuple[int, list[str]]:
        """Wrap by the current key-encryption key what others wrap, in batches; safe to run again, and twice at once.

        Returns:
            How many clips' keys were wrapped anew, and the ids of the key-encryption keys that wrap none any more:
            once they are destroyed, what older backups hold of clips' keys cannot be opened.
        """
        kek_id, after, changed = self.current.kek_id, None, 0
        while batch := keys_not_under(self.database, kek_id, after=after, limit=_BATCH):
            changed += rewrap_keys(
                self.database,
                [(clip, old, self.current.wrap(self._unwrap(old, clip), clip)) for clip, old in batch],
            )
            after = batch[-1][0]
            faults.point("keys.rotated_batch")
        retired = retire_keks(self.database, current=kek_id)
        if changed or retired:
            record(
                self.database,
                actor=actor,
                action="keys.rotated",
                details={"keys": changed, "to": kek_id, "retired": retired},
            )
        return changed, retired

    def _unwrap(self, key: WrappedKey, clip_id: uuid.UUID) -> bytes:
        for kek in (self.current, *self.previous):
            if kek.opens(key.kek_id):
                return kek.unwrap(key, clip_id)
        raise KeyEncryptionKeyError(_unknown(key.kek_id))


def open_clip_keys(settings: Settings, database: Database) -> ClipKeys:
    """Clips' keys by the key-encryption key that the settings name.

    Raises:
        KeyEncryptionKeyError: it is missing or unreadable, or not the one that wraps the ledger's keys.
    """
    current = _source(settings.key_encryption_key, settings) if settings.key_encryption_key else None
    if current is None:
        current = _default_key(settings, database)
    previous = tuple(
        _source(source.strip(), settings)
        for source in (settings.previous_key_encryption_keys or "").split(",")
        if source
    )
    everything: tuple[KeyEncryptionKey, ...] = (current, *previous)
    for kek_id in keks_in_use(database):
        if not any(kek.opens(kek_id) for kek in everything):
            raise KeyEncryptionKeyError(_unknown(kek_id))
    register_kek(database, current.kek_id)
    return ClipKeys(database, current, previous)


def write_new_key(path: Path) -> None:
    """Make a key-encryption key in a file of its owner's alone. Raises FileExistsError."""
    write_key_file(path, (os.urandom(KEY_BYTES).hex() + "\n").encode())


@dataclass(frozen=True)
class Scrubbed:
    """What became of the old rows of destroyed keys.

    Attributes:
        rewritten: the table was written anew, so that its file holds live rows only; else they were only freed, or an
            older transaction kept them to the end (`kept`).
        checkpointed: its pages are on disk.
        log_switched: PostgreSQL goes on in another log file.
        kept: old rows that were written anew too, since a transaction that began before could still ask for them.
    """

    rewritten: bool
    checkpointed: bool
    log_switched: bool
    kept: int = 0


def scrub_destroyed_keys(database: Database, *, full: bool, actor: str, wait_s: float = 60.0) -> Scrubbed:
    """Have PostgreSQL free, or with `full` overwrite, what it still holds of destroyed and replaced keys.

    docs/keys.md says what stays and for how long. `full` locks the table of keys against everyone for some seconds a
    million keys. Checkpoint and log switch need a role that may; without it they are left to PostgreSQL's own schedule.

    Args:
        wait_s: how long to try again for, in seconds, while a transaction that began before can still ask for old rows:
            PostgreSQL writes those anew with the others.
    """
    with psycopg.connect(database.url, autocommit=True) as connection:
        kept = _written_anew(connection, wait_s) if full else 0
        if not full:
            connection.execute("VACUUM (ANALYZE) cv.clip_keys")
        done = Scrubbed(
            rewritten=full and kept == 0,
            checkpointed=_permitted(connection, "CHECKPOINT"),
            log_switched=_permitted(connection, "SELECT pg_switch_wal()"),
            kept=kept,
        )
    record(database, actor=actor, action="keys.scrubbed", details=vars(done))
    return done


def keys_to_scrub(database: Database) -> bool:
    """Whether a key was destroyed or replaced since the table of keys was last written anew."""
    with database.transaction() as connection:
        found = connection.execute(
            "WITH last AS (SELECT coalesce(max(at), '-infinity') AS at FROM cv.audit_log"
            " WHERE action = 'keys.scrubbed' AND (details ->> 'rewritten')::boolean)"
            " SELECT EXISTS (SELECT FROM cv.clip_keys k, last WHERE k.destroyed_at > last.at)"
            " OR EXISTS (SELECT FROM cv.audit_log a, last WHERE a.action = 'keys.rotated' AND a.at > last.at)"
        ).fetchone()
    return bool(found and found[0])


def _written_anew(connection: psycopg.Connection[Any], wait_s: float) -> int:
    """Write the table of keys anew until no old row is left in it, for so long; returns how many are left."""
    deadline, pause_s = time.monotonic() + wait_s, 0.25
    connection.execute("SET lock_timeout = '5s'")  # who waits for the table keeps everyone after him from it, too
    while True:
        try:
            connection.execute("VACUUM (FULL, ANALYZE) cv.clip_keys")
        except psycopg.errors.LockNotAvailable:
            if time.monotonic() + pause_s > deadline:
                raise
            time.sleep(pause_s)
            continue
        # ANALYZE has read the new file and counted the old rows in it; nothing else that PostgreSQL tells does
        found = connection.execute("SELECT pg_stat_get_dead_tuples('cv.clip_keys'::regclass)").fetchone()
        kept = int(found[0]) if found else 0
        if kept == 0 or time.monotonic() + pause_s > deadline:
            return kept
        time.sleep(pause_s)
        pause_s *= 2


def _permitted(connection: psycopg.Connection[Any], statement: str) -> bool:
    try:
        connection.execute(statement)
    except psycopg.errors.InsufficientPrivilege:
        return False
    return True


def _source(source: str, settings: Settings) -> KeyEncryptionKey:
    kind, _, name = source.partition(":")
    if not name or kind not in ("file", "env", "kms"):
        # Not what was found: it may be the key itself.
        raise KeyEncryptionKeyError(f"{_VARIABLE} names no source of a key; {_ALLOWED}")
    if kind == "kms":
        return KmsKey(name, region=settings.s3_region)
    if kind == "env":
        value = os.environ.get(name, "")
        if not value:
            raise KeyEncryptionKeyError(f"{_VARIABLE} names the environment variable {name}, which is not set")
        return LocalKey(_parsed(value.encode(), f"the environment variable {name}"))
    return _read_file(Path(name))


def _read_file(path: Path) -> LocalKey:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise KeyEncryptionKeyError(
            f"the key-encryption key's file {path} cannot be read ({error.strerror}); restore it, or set {_VARIABLE}"
        ) from None
    return LocalKey(_parsed(data, f"the file {path}"))


def _parsed(data: bytes, place: str) -> bytes:
    text = data.strip()
    secret = b""
    with suppress(ValueError, binascii.Error):
        hexadecimal = len(text) == 2 * KEY_BYTES
        secret = bytes.fromhex(text.decode("ascii")) if hexadecimal else base64.b64decode(text, validate=True)
    if len(secret) != KEY_BYTES:
        raise KeyEncryptionKeyError(f"{place} holds no key-encryption key; allowed: {_FORM}")
    return secret


def _default_key(settings: Settings, database: Database) -> LocalKey:
    """The key file of a machine on its own, made at first use."""
    if not (settings.store_url.startswith("file:") and settings.raw_store_url.startswith("file:")):
        raise KeyEncryptionKeyError(
            f"{_VARIABLE} is not set; it may be left empty only where all stores are folders; {_ALLOWED}"
        )
    path = settings.state_dir / DEFAULT_FILE
    if not path.exists():
        lost = sorted(kek for kek in keks_in_use(database) if kek.startswith("local:"))
        if lost and not path.exists():  # another process may have made it, and wrapped keys by it, meanwhile
            raise KeyEncryptionKeyError(
                f"the key-encryption key's file {path} is gone, and clips' keys are wrapped by it ({lost[0]});"
                f" restore the file, or name the key in {_VARIABLE}"
            )
        with suppress(FileExistsError):  # another process was first
            write_new_key(path)
    return _read_file(path)


def _unknown(kek_id: str) -> str:
    return (
        f"clips' keys are wrapped by the key-encryption key {kek_id}, which the settings do not name; set {_VARIABLE}"
        " to it, or, where another is to take its place, name it in CV_PLATFORM_PREVIOUS_KEY_ENCRYPTION_KEYS and run"
        " `cv-platform keys rotate`"
    )


def _kms(call: Any, **arguments: Any) -> Any:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return call(**arguments)
    except ClientError as error:
        raise KeyEncryptionKeyError(
            f"AWS KMS refused the key-encryption key: {error.response.get('Error', {}).get('Code', 'unknown')}"
        ) from None
    except BotoCoreError as error:
        raise KeyEncryptionKeyError(f"AWS KMS cannot be reached: {type(error).__name__}") from None
