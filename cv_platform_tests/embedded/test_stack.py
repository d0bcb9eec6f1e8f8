"""The stack as a whole: what it starts, what it leaves alone, and that it stops exactly what it started."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
import redis

from cv_platform.embedded.environment import child_environment, exports, shell_lines
from cv_platform.embedded.processes import ProcessTable
from cv_platform.embedded.stack import Stack, StackError
from cv_platform.settings import Settings


@pytest.fixture
def stack(tmp_path: Path):
    stack = Stack(Settings(state_dir=tmp_path / "state"))
    yield stack
    stack.stop()


def test_servers_start_once_with_their_databases_and_the_newest_schema(stack: Stack) -> None:
    settings = stack.start_servers()
    before = stack.running()
    assert sorted(before) == ["postgres", "redis"]
    with psycopg.connect(str(settings.postgres_url)) as connection:
        assert connection.execute("SELECT count(*) FROM cv.clips").fetchone() == (0,)
    with psycopg.connect(str(settings.dagster_postgres_url).replace("+psycopg2", "")) as connection:
        assert connection.execute("SELECT current_database()").fetchone() == ("dagster",)
        # They are there before any of Dagster's processes starts: two that make them at once break each other.
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (0,)
    with redis.Redis.from_url(str(settings.redis_url)) as client:
        assert client.ping()
    assert stack.start_servers() == settings
    assert stack.running() == before


def test_two_commands_at_once_start_one_set_of_servers(tmp_path: Path) -> None:
    stacks = [Stack(Settings(state_dir=tmp_path / "state")) for _ in range(3)]
    try:
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda stack: stack.start_servers(), stacks))
        pids = {tuple(sorted(record.pid for record in stack.running().values())) for stack in stacks}
        assert len(pids) == 1
    finally:
        stacks[0].stop()


def test_stop_finds_servers_whose_state_file_was_lost(stack: Stack) -> None:
    stack.start_servers()
    records = list(stack.running().values())
    stack.table.path.unlink()
    assert sorted(record.name for record in stack.stop()) == ["postgres", "redis"]
    assert not any(record.alive for record in records)
    assert stack.stop() == []


def test_external_addresses_start_nothing(tmp_path: Path, database_url: str, redis_url: str) -> None:
    settings = Settings(
        state_dir=tmp_path / "state",
        postgres_url=database_url,
        dagster_postgres_url=database_url.replace("postgresql://", "postgresql+psycopg2://"),
        redis_url=redis_url,
    )
    stack = Stack(settings)
    filled = stack.start_servers()
    assert stack.running() == {}
    assert (filled.postgres_url, filled.redis_url) == (database_url, redis_url)
    assert not (tmp_path / "state" / "postgres").exists()
    assert not (tmp_path / "state" / "redis").exists()


def test_folders_in_which_faces_are_visible_are_closed_to_others(stack: Stack) -> None:
    (stack.folder / "store").mkdir(parents=True, mode=0o755)
    settings = stack.start_servers()
    assert settings.scratch.stat().st_mode & 0o777 == 0o700
    assert (stack.folder / "store").stat().st_mode & 0o777 == 0o700


class TestExports:
    def test_another_process_sees_the_same_settings(self, tmp_path: Path) -> None:
        settings = Stack(
            Settings(state_dir=tmp_path / "s", lease_s=7.5, restricted_s3_secret_access_key="it's secret")
        ).settings
        program = "from cv_platform.settings import Settings; print(Settings().model_dump_json())"
        environment = {**exports(settings), "PATH": os.environ["PATH"]}
        command = [sys.executable, "-c", program]
        printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        assert Settings.model_validate_json(printed).model_dump() | {"restricted_s3_secret_access_key": None} == (
            settings.model_dump() | {"restricted_s3_secret_access_key": None}
        )
        assert environment["CV_PLATFORM_RESTRICTED_S3_SECRET_ACCESS_KEY"] == "it's secret"

    def test_a_shell_reads_the_lines_back(self, tmp_path: Path) -> None:
        variables = {"CV_PLATFORM_A": "it's $HOME; `id`", "CV_PLATFORM_B": 'a "b"'}
        script = f'{shell_lines(variables)}\nprintf "%s|%s" "$CV_PLATFORM_A" "$CV_PLATFORM_B"'
        printed = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout
        assert printed == 'it\'s $HOME; `id`|a "b"'

    def test_intervals_are_short_unless_chosen(self, tmp_path: Path) -> None:
        assert Stack(Settings(state_dir=tmp_path)).settings.sensor_interval_s == 5
        assert Stack(Settings(state_dir=tmp_path, sensor_interval_s=60)).settings.sensor_interval_s == 60
        assert Stack(Settings(state_dir=tmp_path, sensor_interval_s=30)).settings.sensor_interval_s == 30

    def test_dagsters_home_holds_the_clones_own_file(self, tmp_path: Path) -> None:
        home = Path(exports(Stack(Settings(state_dir=tmp_path)).settings)["DAGSTER_HOME"])
        assert home.is_absolute()
        assert "CV_PLATFORM_DAGSTER_POSTGRES_URL" in (home / "dagster.yaml").read_text()

    def test_children_keep_our_variables_but_settings_win(self, tmp_path: Path) -> None:
        settings = Stack(Settings(state_dir=tmp_path)).settings
        base = {"PATH": "/bin", "CV_PLATFORM_STATE_DIR": "elsewhere", "MPLCONFIGDIR": "/mine"}
        environment = child_environment(settings, base)
        assert environment["PATH"] == "/bin"
        assert environment["MPLCONFIGDIR"] == "/mine"
        assert environment["CV_PLATFORM_STATE_DIR"] == str(tmp_path)
        assert environment["DO_NOT_TRACK"] == "1"


def test_a_daemon_that_ends_at_once_is_said_with_its_log(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = stack.start_servers()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(StackError, match=r"daemon ended at once \(exit 1\)"):
        stack.start_daemon()
    assert "daemon" not in ProcessTable(settings.state_dir / "processes.json").all()
