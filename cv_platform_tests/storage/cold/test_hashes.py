"""PostgreSQL's hashes and ours of the same values; the checksums of both sides; batches out and back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psycopg
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cv_platform.storage.cold import hashes
from cv_platform.storage.cold.checksums import Checksum, of_batch
from cv_platform.storage.cold.kinds import KINDS, schema
from cv_platform.storage.cold.parquet import checksum_of, read_file, write_file

SEEDS = st.one_of(st.just(0), st.integers(-(2**63), 2**63 - 1))
FLOATS = st.one_of(st.sampled_from([0.0, -0.0, 1.0, float("inf")]), st.floats(width=32, allow_nan=False))
ALPHABET = st.characters(codec="utf-8", exclude_characters="\0")
QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def connection(postgres_server: object) -> Iterator[psycopg.Connection[tuple[int]]]:
    with psycopg.connect(postgres_server.url(), autocommit=True) as opened:  # type: ignore[attr-defined]
        yield opened


def theirs(connection: psycopg.Connection[tuple[int]], call: str, *values: object) -> int:
    row = connection.execute(f"SELECT {call}".encode(), values).fetchone()
    assert row is not None
    return row[0]


def ours(found: hashes.Hashes) -> int:
    return int(found.astype(np.int64)[0])


def seeded(seed: int) -> hashes.Hashes:
    return np.array([seed], np.int64).view(np.uint64)


@QUICK
@given(data=st.binary(min_size=16, max_size=16), seed=SEEDS)
def test_uuids(connection: psycopg.Connection[tuple[int]], data: bytes, seed: int) -> None:
    found = ours(hashes.hash_bytes(np.frombuffer(data, np.uint8).reshape(1, 16), seeded(seed)))
    assert found == theirs(connection, "uuid_hash_extended(encode(%b, 'hex')::uuid, %s::bigint)", data, seed)


@QUICK
@given(text=st.text(ALPHABET, max_size=40), seed=SEEDS)
def test_texts(connection: psycopg.Connection[tuple[int]], text: str, seed: int) -> None:
    found = ours(hashes.hash_texts([text.encode()], seeded(seed)))
    assert found == theirs(connection, "hashtextextended(%s::text, %s::bigint)", text, seed)


@QUICK
@given(number=st.integers(-(2**31), 2**31 - 1), wide=st.integers(-(2**63), 2**63 - 1), seed=SEEDS)
def test_integers(connection: psycopg.Connection[tuple[int]], number: int, wide: int, seed: int) -> None:
    found = ours(hashes.hash_int4(np.array([number]), seeded(seed)))
    assert found == theirs(connection, "hashint4extended(%s::int, %s::bigint)", number, seed)
    found = ours(hashes.hash_int8(np.array([wide]), seeded(seed)))
    assert found == theirs(connection, "hashint8extended(%s::bigint, %s::bigint)", wide, seed)


@QUICK
@given(values=st.lists(FLOATS, min_size=4, max_size=4), seed=SEEDS)
def test_floats(connection: psycopg.Connection[tuple[int]], values: list[float], seed: int) -> None:
    numbers = np.array(values, np.float32)
    found = ours(hashes.hash_float4(numbers[:1], seeded(seed)))
    assert found == theirs(connection, "hashfloat4extended(%s::float4, %s::bigint)", float(numbers[0]), seed)
    found = ours(hashes.hash_float4_arrays(numbers.reshape(1, 4), seeded(seed)))
    assert found == theirs(connection, "hash_array_extended(%s::float4[], %s::bigint)", numbers.tolist(), seed)


def a_batch(kind: str, rows: int = 5) -> pa.RecordBatch:
    """Made-up rows, each column different in each row."""
    made = {
        pa.binary(16): [bytes([n] * 16) for n in range(rows)],
        pa.string(): [f"text {n}" for n in range(rows)],
        pa.timestamp("us", tz="UTC"): list(range(rows)),
        pa.date32(): list(range(rows)),
        pa.list_(pa.float32()): [[n / 8, 0.0, 0.5, 1.0] for n in range(rows)],
    }
    arrays = [
        pa.array(["cam"] * rows if field.name == "camera_id" else made.get(field.type, list(range(rows))), field.type)
        for field in schema(kind)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_any_changed_value_changes_the_checksum(kind: str) -> None:
    batch = a_batch(kind)
    whole = of_batch(kind, "cam", batch)
    assert of_batch(kind, "cam", batch.take(pa.array([4, 2, 0, 1, 3]))) == whole  # in whichever order
    assert sum((of_batch(kind, "cam", batch.slice(n, 1)) for n in range(5)), Checksum()) == whole
    for field in schema(kind):
        if field.name == "camera_id":
            continue
        swapped = batch.column(field.name).take(pa.array([1, 0, 2, 3, 4]))  # each value is there still
        columns = [swapped if name == field.name else batch.column(name) for name in batch.schema.names]
        assert of_batch(kind, "cam", pa.RecordBatch.from_arrays(columns, schema=schema(kind))) != whole, field.name
    with pytest.raises(ValueError, match="another"):
        of_batch(kind, "cam2", batch)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_gives_back_what_was_written(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    batches = [a_batch(kind), a_batch(kind, 3), a_batch(kind, 0)]
    assert write_file(path, kind, batches) == 8
    read = pa.Table.from_batches(list(read_file(path, kind))).cast(schema(kind))
    assert read.to_pylist() == pa.Table.from_batches(batches).to_pylist()
    assert checksum_of(path, kind, "cam") == sum((of_batch(kind, "cam", batch) for batch in batches), Checksum())
    other = KINDS[(KINDS.index(kind) + 1) % 3]
    with pytest.raises(ValueError, match="columns"):
        list(read_file(path, other))
