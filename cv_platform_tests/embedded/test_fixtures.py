"""The fixtures hold what they promise: fresh, migrated, apart from each other."""

from __future__ import annotations

import json
from urllib.parse import unquote_plus

import psycopg
import pytest
import redis

from cv_platform.settings import Settings
from cv_platform_tests.conftest import S3Server


@pytest.mark.parametrize("run", [1, 2])
def test_each_test_has_a_fresh_migrated_database(database_url: str, run: int) -> None:
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT count(*) FROM cv.sites").fetchone() == (0,)
        connection.execute("INSERT INTO cv.sites (site_id) VALUES ('left-behind')")
        assert connection.execute("SHOW timezone").fetchone() == ("UTC",)


@pytest.mark.parametrize("run", [1, 2])
def test_each_test_has_an_empty_redis(redis_url: str, run: int) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        client.set("left", "behind")


def test_dagsters_tables_are_in_their_own_database(dagster_database_url: str) -> None:
    with psycopg.connect(dagster_database_url.replace("+psycopg2", "")) as connection:
        names = {row[0] for row in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}
    assert {"runs", "event_logs", "job_ticks"} <= names


@pytest.mark.parametrize("run", [1, 2])
def test_an_upload_is_announced_on_the_queue(s3_server: S3Server, run: int) -> None:
    s3_server.client().put_object(Bucket=s3_server.restricted_bucket, Key="raw/a", Body=b"x")
    answer = s3_server.client("sqs").receive_message(QueueUrl=s3_server.queue_url, MaxNumberOfMessages=10)
    records = [record for message in answer["Messages"] for record in json.loads(message["Body"])["Records"]]
    keys = [unquote_plus(record["s3"]["object"]["key"]) for record in records]  # S3 quotes keys in notifications
    assert keys == ["raw/a"]


def test_settings_point_at_this_tests_servers(settings: Settings, database_url: str, redis_url: str) -> None:
    assert (settings.postgres_url, settings.redis_url) == (database_url, redis_url)
    assert settings.store_url.startswith("file:///")
