"""What tests stand on: one PostgreSQL server a run, a fresh database a test."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from dagster import DagsterInstance
from psycopg import Connection

from cleanup_pipeline.demo.schema import add_foreign_keys, create_tables
from cleanup_pipeline.demo.server import embedded_server
from cleanup_pipeline_tests.databases import fresh_database, name_of
from cleanup_pipeline_tests.oracle import Tables
from cleanup_pipeline_tests.servers import server

pytest_plugins = ["cleanup_pipeline_tests.bullmq"]

SERVER = pytest.StashKey[str]()
STOP = pytest.StashKey[ExitStack]()
OLDER = pytest.StashKey[dict[int, str]]()
ENOUGH_BYTES = 4 * 2**30


def server_url_of(config: pytest.Config) -> str:
    """The run's server: CLEANUP_TEST_DATABASE_URL, or an embedded one, started when it is first asked for."""
    if SERVER not in config.stash:
        url = os.environ.get("CLEANUP_TEST_DATABASE_URL")
        if not url:
            url = config.stash.setdefault(STOP, ExitStack()).enter_context(embedded_server(durable=False)).url()
        config.stash[SERVER] = url
    return config.stash[SERVER]


def older_server_url_of(config: pytest.Config, major: int) -> str:
    """A server of an older version, started when it is first asked for, once a worker."""
    started = config.stash.setdefault(OLDER, {})
    if major not in started:
        started[major] = config.stash.setdefault(STOP, ExitStack()).enter_context(server(major)).url
    return started[major]


def pytest_configure(config: pytest.Config) -> None:
    keep_files_in_memory()
    if workerinput := getattr(config, "workerinput", None):
        config.stash[SERVER] = workerinput["server_url"]


def keep_files_in_memory() -> None:
    """Where there is room for it: most of what a test does is to make databases, hundreds of files each."""
    memory = Path("/dev/shm")  # noqa: S108 -- what is made there is made by tempfile
    if "TMPDIR" not in os.environ and memory.is_dir() and shutil.disk_usage(memory).free > ENOUGH_BYTES:
        os.environ["TMPDIR"] = str(memory)
        tempfile.tempdir = None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Tests wait for servers, browsers and other processes most of the time."""
    return 2 * (os.cpu_count() or 1)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Give a worker of pytest-xdist the server of the whole run."""
    node.workerinput["server_url"] = server_url_of(node.config)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes long: there must be something to do beside it."""
    items.sort(key=lambda item: item.get_closest_marker("timeout") is None)


def pytest_unconfigure(config: pytest.Config) -> None:
    if STOP in config.stash:
        config.stash[STOP].close()


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    if op == "==" and isinstance(left, Tables) and isinstance(right, Tables):
        return ["the tables differ", *left.differences(right)]
    return None


@pytest.fixture(scope="session")
def server_url(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> str:
    """A server on which databases may be made, as a superuser; of an older version where a test names one."""
    major: int | None = getattr(request, "param", None)
    return server_url_of(pytestconfig) if major is None else older_server_url_of(pytestconfig, major)


@pytest.fixture(scope="session")
def schema_template(server_url: str) -> Iterator[str]:
    with fresh_database(server_url) as url:
        with psycopg.connect(url) as connection:
            create_tables(connection)
        yield name_of(url)


@pytest.fixture(scope="session")
def guarded_template(server_url: str, schema_template: str) -> Iterator[str]:
    with fresh_database(server_url, schema_template) as url:
        with psycopg.connect(url) as connection:
            add_foreign_keys(connection)
        yield name_of(url)


@pytest.fixture(scope="session")
def storage_template(server_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with fresh_database(server_url) as url:
        home = tmp_path_factory.mktemp("storage_template")
        write_dagster_yaml(home, url)
        DagsterInstance.from_config(str(home)).dispose()
        yield name_of(url)


@pytest.fixture
def bare_database(server_url: str) -> Iterator[str]:
    """The URL of an empty database: no tables."""
    with fresh_database(server_url) as url:
        yield url


@pytest.fixture
def database(server_url: str, schema_template: str) -> Iterator[str]:
    """The URL of a database with After Hours' tables, all empty, in which orphans may exist."""
    with fresh_database(server_url, schema_template) as url:
        yield url


@pytest.fixture
def guarded_database(server_url: str, guarded_template: str) -> Iterator[str]:
    """The URL of a database with After Hours' tables, all empty, and every foreign key of production."""
    with fresh_database(server_url, guarded_template) as url:
        yield url


@pytest.fixture
def app(database: str) -> Iterator[Connection]:
    """The app, connected to `database`: every statement commits by itself."""
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


@pytest.fixture
def dagster_home(server_url: str, storage_template: str, tmp_path: Path) -> Iterator[Path]:
    """A DAGSTER_HOME whose storage is a fresh PostgreSQL database; the variable itself is not set."""
    home = tmp_path / "dagster_home"
    home.mkdir()
    with fresh_database(server_url, storage_template) as url:
        write_dagster_yaml(home, url)
        yield home


@pytest.fixture
def instance(request: pytest.FixtureRequest) -> Iterator[DagsterInstance]:
    """The instance of `dagster_home`; for a test marked `in_memory` one that forgets everything with the test."""
    if request.node.get_closest_marker("in_memory"):
        made = DagsterInstance.ephemeral()
    else:
        made = DagsterInstance.from_config(str(request.getfixturevalue("dagster_home")))
    with made as instance:
        yield instance


def write_dagster_yaml(home: Path, storage_url: str) -> None:
    config = {
        "storage": {"postgres": {"postgres_url": storage_url}},
        "telemetry": {"enabled": False},
    }
    (home / "dagster.yaml").write_text(json.dumps(config))  # JSON is YAML
