"""Clips' keys: wrapped for one clip by a key-encryption key from a file, the environment or KMS; or nothing opens."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from cv_platform import faults
from cv_platform.governance.audit import entries
from cv_platform.governance.keys import (
    DEFAULT_FILE,
    ClipKeys,
    KeyDestroyed,
    KeyEncryptionKeyError,
    LocalKey,
    _default_key,
    keys_to_scrub,
    open_clip_keys,
    scrub_destroyed_keys,
    write_new_key,
)
from cv_platform.settings import Settings
from cv_platform.storage.database import Database
from cv_platform.storage.ledger.clip_keys import (
    WrappedKey,
    count_keys,
    destroy_keys,
    destroy_keys_of_day,
    keks_in_use,
    keys_not_under,
    rewrap_keys,
)
from cv_platform.storage.ledger.registration import Upload, register_uploads
from cv_platform.storage.sealed import new_key
from cv_platform_tests.conftest import S3Server

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    made = Database(str(settings.postgres_url), max_size=4)
    yield made
    made.close()


def add_clips(database: Database, times: list[datetime], camera: str = "cam1") -> list[uuid.UUID]:
    """Clips in the ledger, in order of their times."""
    register_uploads(database, [Upload(f"raw/{camera}/{at}", "e", 1, "north", camera, at) for at in times])
    with database.transaction() as connection:
        rows = connection.execute("SELECT clip_id FROM cv.clips WHERE camera_id = %s ORDER BY captured_at", [camera])
        return [clip_id for (clip_id,) in rows.fetchall()]


def with_key(settings: Settings, source: str | None, *previous: str) -> Settings:
    return settings.model_copy(
        update={"key_encryption_key": source, "previous_key_encryption_keys": ",".join(previous) or None}
    )


def key_file(folder: Path, name: str) -> str:
    write_new_key(folder / name)
    return f"file:{folder / name}"


def source_of(kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """A source of a key-encryption key, ready for use."""
    if kind == "file":
        return key_file(tmp_path, "kek")
    if kind == "env":
        monkeypatch.setenv("SOME_KEY", "q83vASNFZ4mrze8BI0VniavN7wEjRWeJq83vASNFZ4k=")
        return "env:SOME_KEY"
    if kind == "kms":
        server: S3Server = request.getfixturevalue("s3_server")
        monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", server.endpoint_url)
        return f"kms:{server.client('kms').create_key()['KeyMetadata']['KeyId']}"
    return None


@pytest.mark.parametrize("kind", ["default", "file", "env", "kms"])
def test_each_clip_has_a_key_of_its_own_that_stays(
    kind: str,
    settings: Settings,
    database: Database,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen = with_key(settings, source_of(kind, request, tmp_path, monkeypatch))
    first, second = add_clips(database, [NOON, NOON + timedelta(minutes=1)])
    keys = open_clip_keys(chosen, database)
    made = [keys.key_for(clip) for clip in (first, second)]
    assert made[0] != made[1]
    assert {len(key) for key in made} == {32}
    again = open_clip_keys(chosen, database)
    assert [again.open(clip) for clip in (first, second)] == made
    assert [again.key_for(clip) for clip in (first, second)] == made
    with database.transaction() as connection:
        rows = connection.execute("SELECT wrapped, k::text FROM cv.clip_keys k").fetchall()
        # One clip's wrapped key does not open as another's.
        connection.execute(
            "UPDATE cv.clip_keys SET wrapped = (SELECT wrapped FROM cv.clip_keys WHERE clip_id = %s)", [first]
        )
    assert all(key not in wrapped and key.hex() not in text for wrapped, text in rows for key in made)
    with pytest.raises(KeyEncryptionKeyError):
        again.open(second)


def test_the_default_key_is_a_file_of_its_owners_alone(settings: Settings, database: Database) -> None:
    opened: list[str] = []
    threads = [
        threading.Thread(target=lambda: opened.append(open_clip_keys(settings, database).current.kek_id))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 4
    assert len(set(opened)) == 1
    path = settings.state_dir / DEFAULT_FILE
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in settings.state_dir.iterdir() if DEFAULT_FILE in entry.name] == [DEFAULT_FILE]
    with pytest.raises(FileExistsError):
        write_new_key(path)
    assert open_clip_keys(settings, database).current.kek_id == opened[0]


def test_a_default_key_that_another_made_meanwhile_is_not_gone(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def used_by_now(_: Database) -> set[str]:
        write_new_key(settings.state_dir / DEFAULT_FILE)
        return {"local:0123"}

    monkeypatch.setattr("cv_platform.governance.keys.keks_in_use", used_by_now)
    assert _default_key(settings, database).kek_id.startswith("local:")


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("file:/nonexistent/key", "cannot be read (No such file"),
        ("env:NOT_SET_AT_ALL", "NOT_SET_AT_ALL, which is not set"),
        ("env:TOO_SHORT", "64 hexadecimal digits or as base64"),
        ("file:", "allowed: file:PATH, env:NAME, kms:KEY_ID"),
        ("0123456789abcdef" * 4, "allowed: file:PATH, env:NAME, kms:KEY_ID"),
    ],
)
def test_a_key_that_cannot_be_had_is_one_clear_error(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch, source: str, told: str
) -> None:
    monkeypatch.setenv("TOO_SHORT", "abcd")
    with pytest.raises(KeyEncryptionKeyError) as caught:
        open_clip_keys(with_key(settings, source), database)
    assert told in str(caught.value)
    assert "0123456789abcdef" not in str(caught.value)
    assert keks_in_use(database) == set()


def test_a_kms_key_that_is_none_is_one_clear_error(
    settings: Settings, database: Database, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", s3_server.endpoint_url)
    with pytest.raises(KeyEncryptionKeyError, match="AWS KMS refused the key-encryption key: NotFoundException"):
        open_clip_keys(with_key(settings, f"kms:{uuid.uuid4()}"), database)


def test_a_store_elsewhere_needs_a_key_that_is_named(settings: Settings, database: Database) -> None:
    with pytest.raises(KeyEncryptionKeyError, match="is not set; it may be left empty only"):
        open_clip_keys(settings.model_copy(update={"restricted_store_url": "s3://bucket"}), database)


def test_another_key_opens_nothing_and_seals_nothing(settings: Settings, database: Database, tmp_path: Path) -> None:
    [clip] = add_clips(database, [NOON])
    right, wrong = (with_key(settings, key_file(tmp_path, name)) for name in ("right", "wrong"))
    key = open_clip_keys(right, database).key_for(clip)
    with pytest.raises(KeyEncryptionKeyError, match="PREVIOUS_KEY_ENCRYPTION_KEYS"):
        open_clip_keys(wrong, database)
    assert open_clip_keys(right, database).open(clip) == key
    # The embedded stack's own file, lost: none is made in its place.
    with pytest.raises(KeyEncryptionKeyError, match="is gone, and clips' keys are wrapped by it"):
        open_clip_keys(settings, database)
    assert not (settings.state_dir / DEFAULT_FILE).exists()


@pytest.mark.parametrize("kinds", [("file", "env"), ("file", "kms"), ("kms", "file")])
def test_rotation_wraps_every_key_anew(
    kinds: tuple[str, str],
    settings: Settings,
    database: Database,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clips = add_clips(database, [NOON + timedelta(minutes=n) for n in range(3)])
    old, new = (source_of(kind, request, tmp_path, monkeypatch) for kind in kinds)
    before = open_clip_keys(with_key(settings, old), database)
    made = [before.key_for(clip) for clip in clips]
    with database.transaction() as connection:
        destroy_keys(connection, [clips[2]])
    rotating = open_clip_keys(with_key(settings, new, str(old)), database)
    assert rotating.rotate(actor="officer") == (2, [before.current.kek_id])
    assert rotating.rotate(actor="officer") == (0, [])
    after = open_clip_keys(with_key(settings, new), database)
    assert [after.open(clip) for clip in clips[:2]] == made[:2]
    assert count_keys(database).by_kek == {after.current.kek_id: 2}
    assert count_keys(database).destroyed == 1
    assert [entry.action for entry in entries(database)] == ["keys.rotated"]
    if "kms" not in kinds:  # a process that still has the old one makes no key that nobody can open later
        [late] = add_clips(database, [NOON], camera="cam2")
        with pytest.raises(KeyEncryptionKeyError, match="was retired"):
            before.key_for(late)


@pytest.mark.parametrize("point", ["keys__before_create", "keys__rotated_batch"])
def test_what_was_broken_off_is_done_by_the_next(
    settings: Settings, database: Database, tmp_path: Path, point: str
) -> None:
    old, new = key_file(tmp_path, "old"), key_file(tmp_path, "new")
    clips = add_clips(database, [NOON + timedelta(minutes=n) for n in range(3)])
    before = open_clip_keys(with_key(settings, old), database)
    first = before.key_for(clips[0])
    rotating = open_clip_keys(with_key(settings, new, old), database)

    def work() -> bytes:
        made = rotating.key_for(clips[1])
        rotating.rotate(actor="officer")
        return made

    with faults.plan(**{point: "raise"}), pytest.raises(faults.InjectedFault):
        work()
    second = work()
    after = open_clip_keys(with_key(settings, new), database)
    assert [after.open(clip) for clip in clips[:2]] == [first, second]
    assert keks_in_use(database) == {after.current.kek_id}


def test_a_key_destroyed_while_it_is_wrapped_anew_stays_destroyed(
    settings: Settings, database: Database, tmp_path: Path
) -> None:
    [clip] = add_clips(database, [NOON])
    keys = open_clip_keys(settings, database)
    keys.key_for(clip)
    [(_, wrapped)] = keys_not_under(database, "another", after=None, limit=10)
    with database.transaction() as connection:
        destroy_keys(connection, [clip])
    assert rewrap_keys(database, [(clip, wrapped, WrappedKey(b"new", "kek"))]) == 0
    with pytest.raises(KeyDestroyed):
        keys.open(clip)


def test_a_destroyed_key_is_gone_and_none_follows_it(settings: Settings, database: Database) -> None:
    first, second, keyless = add_clips(database, [NOON + timedelta(minutes=n) for n in range(3)])
    keys = open_clip_keys(settings, database)
    kept = [keys.key_for(clip) for clip in (first, second)][1]
    with database.transaction() as connection:
        assert destroy_keys(connection, [first, keyless, first]) == 2
        assert destroy_keys(connection, [first]) == 0
    for clip in (first, keyless):
        with pytest.raises(KeyDestroyed):
            keys.open(clip)
        with pytest.raises(KeyDestroyed):
            keys.key_for(clip)  # also for a clip that had none yet: a worker that comes late
    assert keys.open(second) == kept


def test_the_keys_of_a_day_are_those_of_its_camera_and_utc_date(settings: Settings, database: Database) -> None:
    midnight = NOON.replace(hour=0)
    times = [midnight - timedelta(microseconds=1), midnight, NOON, midnight + timedelta(days=1)]
    mine, others = add_clips(database, times), add_clips(database, times, camera="cam2")
    keys = open_clip_keys(settings, database)
    for clip in (*mine, *others):
        keys.key_for(clip)
    with database.transaction() as connection:
        connection.execute("SET LOCAL timezone = 'Asia/Tokyo'")
        assert destroy_keys_of_day(connection, "cam1", NOON.date()) == 2
    with database.transaction() as connection:
        gone = connection.execute("SELECT clip_id FROM cv.clip_keys WHERE wrapped IS NULL").fetchall()
    assert {clip for (clip,) in gone} == set(mine[1:3])


def test_two_workers_agree_on_a_clips_first_key(settings: Settings, database: Database) -> None:
    clips = add_clips(database, [NOON + timedelta(minutes=n) for n in range(20)])
    keys = open_clip_keys(settings, database)
    found: list[list[bytes]] = []

    def make() -> None:
        found.append([keys.key_for(clip) for clip in clips])

    threads = [threading.Thread(target=make) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1] == found[2]
    assert [keys.open(clip) for clip in clips] == found[0]


def test_scrubbing_leaves_no_destroyed_key_in_the_tables_file(settings: Settings, database: Database) -> None:
    clips = add_clips(database, [NOON + timedelta(minutes=n) for n in range(5)])
    keys = open_clip_keys(settings, database)
    for clip in clips:
        keys.key_for(clip)
    with database.transaction() as connection:
        wrapped = dict(connection.execute("SELECT clip_id, wrapped FROM cv.clip_keys").fetchall())
        destroy_keys(connection, clips[:3])

    def on_disk() -> list[bool]:
        with database.transaction() as connection:
            [(folder, path)] = connection.execute(
                "SELECT current_setting('data_directory'), pg_relation_filepath('cv.clip_keys')"
            ).fetchall()
        data = Path(folder, path).read_bytes()
        return [wrapped[clip] in data for clip in clips]

    with database.transaction() as connection:
        connection.execute("CHECKPOINT")
    assert on_disk() == [True] * 5  # PostgreSQL keeps old rows: that is what scrubbing is for
    done = scrub_destroyed_keys(database, full=True, actor="officer")
    assert (done.rewritten, done.checkpointed, done.log_switched) == (True, True, True)
    assert on_disk() == [False] * 3 + [True] * 2
    assert not scrub_destroyed_keys(database, full=False, actor="officer").rewritten
    assert [entry.action for entry in entries(database)] == ["keys.scrubbed"] * 2
    assert keys.open(clips[4])


def test_scrubbing_waits_for_whoever_could_still_ask_for_an_old_row(settings: Settings, database: Database) -> None:
    [clip] = add_clips(database, [NOON])
    open_clip_keys(settings, database).key_for(clip)
    with psycopg.connect(database.url) as reader:
        reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        reader.execute("SELECT 1 FROM cv.sites")
        with database.transaction() as connection:
            destroy_keys(connection, [clip])
        done = scrub_destroyed_keys(database, full=True, actor="officer", wait_s=0.5)
        assert (done.rewritten, done.kept) == (False, 1)
        assert keys_to_scrub(database), "a key that is still in the table counts as scrubbed"
        reader.rollback()
        again = threading.Timer(0.5, reader.rollback)
        reader.execute("SELECT 1 FROM cv.sites")
        again.start()
        done = scrub_destroyed_keys(database, full=True, actor="officer")
        again.join()
    assert (done.rewritten, done.kept) == (True, 0)
    assert not keys_to_scrub(database)


def test_nothing_shows_a_key(database: Database) -> None:
    kek = LocalKey(b"k" * 32)
    wrapped = kek.wrap(new_key(), uuid.uuid4())
    shown = repr(ClipKeys(database, kek)) + repr(wrapped)
    assert "kkkk" not in shown
    assert repr(wrapped.wrapped) not in shown
    assert kek.kek_id in shown
