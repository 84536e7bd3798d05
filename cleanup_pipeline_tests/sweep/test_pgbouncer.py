"""Behind a real PgBouncer in transaction mode, with a pool that others use too."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg import Connection

from cleanup_pipeline.demo.data import plant
from cleanup_pipeline.rules import OLD_DECLINES, RULES, Rule
from cleanup_pipeline.sweep.pace import Pace
from cleanup_pipeline.sweep.result import Status
from cleanup_pipeline.sweep.sweep import Sweep
from cleanup_pipeline_tests.cli.conftest import ended
from cleanup_pipeline_tests.cli.conftest import start as start_command
from cleanup_pipeline_tests.oracle import expected, snapshot
from cleanup_pipeline_tests.pooler import PgBouncer, pgbouncer
from cleanup_pipeline_tests.sweep.steps import LARGE, NOW, TINY, few_rows_a_page, finish, options, session_on

App = Connection[Any]
MANY = ("after_hours_sessions", "after_hours_declines", "device_fingerprints", "after_hours_profiles")
each_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule.name))


@pytest.fixture(scope="module")
def pooler(server_url: str) -> Iterator[PgBouncer]:
    with pgbouncer(server_url) as running:
        yield running


@contextmanager
def others_in_the_pool(url: str) -> Iterator[None]:
    """Two more clients, one transaction after the other: each of ours then meets whichever server process is free."""
    stop = threading.Event()

    def work() -> None:
        with psycopg.connect(url, autocommit=True, prepare_threshold=None) as other:
            while not stop.is_set():
                other.execute("begin; select pg_sleep(0.001); commit")

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def left_on_the_server(app: App) -> list[Any]:
    """Locks and temporary tables of ours that a client after us would find on its connection."""
    return app.execute(
        """
        select locktype from pg_locks
        where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())
        union all
        select relname from pg_class where relpersistence = 't' and relkind = 'r'
        """
    ).fetchall()


@pytest.mark.parametrize("pace", [TINY, LARGE], ids=lambda pace: str(pace.name))
def test_every_rule_ends_right_and_leaves_nothing_on_the_pools_connections(
    app: App, database: str, pooler: PgBouncer, pace: Pace
) -> None:
    few_rows_a_page(app, *MANY)
    planted = plant(app, 400, NOW)
    want = expected(app, NOW)
    url = pooler.url(database)
    results = {}
    with others_in_the_pool(url), session_on(url) as session:
        for rule in RULES:
            results[rule.name] = finish(Sweep(rule, session, options(pace=pace)))
            assert session.pooled
    assert {name: (result.status, result.affected, result.remaining) for name, result in results.items()} == {
        name: (Status.SUCCESS, due, 0) for name, due in planted.due.items()
    }
    assert snapshot(app) == want
    assert left_on_the_server(app) == []


def test_the_command_works_through_many_windows(app: App, database: str, pooler: PgBouncer) -> None:
    few_rows_a_page(app, *MANY)
    planted = plant(app, 300, NOW)
    want = expected(app, NOW)
    url = pooler.url(database)
    with others_in_the_pool(url):
        done = ended(
            start_command(["run", "--json", "--yes", "--as-of", NOW.isoformat()], {"CLEANUP_DATABASE_URL": url}), 150
        )
    assert done.code == 0, done.err
    assert {name: rule["affected"] for name, rule in done.rules.items()} == planted.due
    assert sum(rule["batches"] for rule in done.rules.values()) >= 50
    assert snapshot(app) == want


@each_rule
def test_a_pooler_that_loses_its_servers_or_is_started_anew_is_come_back_to(
    app: App, server_url: str, database: str, rule: Rule
) -> None:
    few_rows_a_page(app, *MANY)
    planted = plant(app, 200, NOW)
    with pgbouncer(server_url) as own, session_on(own.url(database)) as session:
        swept = Sweep(rule, session, options(pace=TINY))
        seen = 0
        for progress in swept:
            seen += progress.stage == "windows"
            if seen == 2:
                app.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity"
                    " where datname = current_database() and pid <> pg_backend_pid()"
                )
            elif seen == 4:
                own.kill()
                own.start()
                seen += 1
    assert (swept.result.status, swept.result.affected, swept.result.remaining) == (
        Status.SUCCESS,
        planted.due[rule.name],
        0,
    )


@pytest.mark.parametrize("ends", [lambda own, _: own.kill(), PgBouncer.disable], ids=["killed", "disabled"])
def test_what_stops_a_sweep_is_told(
    app: App, server_url: str, database: str, ends: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cleanup_pipeline.postgres._RECONNECT_PAUSES_S", (0.01,) * 5)
    few_rows_a_page(app, *MANY)
    plant(app, 200, NOW)
    before, want = snapshot(app), expected(app, NOW)
    with pgbouncer(server_url) as own, session_on(own.url(database)) as session:
        swept = Sweep(OLD_DECLINES, session, options(pace=TINY))
        steps = iter(swept)
        next(steps)
        ends(own, database)
        result = finish(swept, steps)
    assert result.status is Status.FAILED
    assert "was lost" in (result.error or "")
    after = snapshot(app)
    assert result.affected == before.only_here(after)["after_hours_declines"]
    assert before.rows["after_hours_declines"] - after.rows["after_hours_declines"] <= (
        before.rows["after_hours_declines"] - want.rows["after_hours_declines"]
    )
