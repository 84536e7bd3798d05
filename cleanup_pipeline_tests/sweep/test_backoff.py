"""When a sweep holds back: for a standby that falls behind, and for those who wait for what it has locked."""

import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import Connection

from cleanup_pipeline.demo import server as demo
from cleanup_pipeline.demo.schema import create_tables
from cleanup_pipeline.demo.server import EmbeddedServer, embedded_server
from cleanup_pipeline.postgres import Database, Session
from cleanup_pipeline.rules import OLD_DECLINES
from cleanup_pipeline.sweep import backoff
from cleanup_pipeline.sweep.preflight import inspect
from cleanup_pipeline.sweep.result import Status
from cleanup_pipeline.sweep.sweep import Sweep
from cleanup_pipeline_tests.sweep import rows
from cleanup_pipeline_tests.sweep.steps import (
    LARGE,
    NOW,
    TINY,
    connected,
    few_rows_a_page,
    finish,
    options,
    session_on,
    sweep,
    wait_until,
)

App = Connection[Any]
DUE = NOW - timedelta(days=8)


@contextmanager
def standby_of(primary: EmbeddedServer) -> Iterator[App]:
    """A standby that streams from `primary`; a connection to it."""
    programs, account = demo._programs(), demo._Account.of_server()
    with tempfile.TemporaryDirectory(prefix="standby-") as folder:
        account.own(Path(folder))
        account.reach(Path(folder))
        cluster = Path(folder) / "postgres"
        demo._run(account, programs / "pg_basebackup", "-R", "--checkpoint=fast", f"-D{cluster}", f"-d{primary.url()}")
        # The primary's socket lies among its data, and so has been copied.
        for copied in cluster.glob(".s.PGSQL.*"):
            copied.unlink()
        with embedded_server(Path(folder)) as server, connected(server.url()) as connection:
            yield connection


@pytest.fixture(scope="module")
def primary() -> Iterator[EmbeddedServer]:
    with embedded_server(durable=False) as server:
        yield server


@pytest.fixture(scope="module")
def standby(primary: EmbeddedServer) -> Iterator[App]:
    with standby_of(primary) as connection:
        yield connection


@pytest.fixture
def app(primary: EmbeddedServer, request: pytest.FixtureRequest) -> Iterator[App]:
    url = primary.create_database(request.node.name[:60])
    with connected(url) as connection:
        create_tables(connection)
        few_rows_a_page(connection, "after_hours_declines")
        for _ in range(60):
            rows.decline(connection, DUE)
        yield connection


@pytest.fixture
def database(primary: EmbeddedServer, app: App) -> str:
    return primary.url(app.info.dbname)


# So long a rest after each window that the next look at the standby comes before the sweep is done.
SLOW = replace(TINY, rest=20.0)


@pytest.fixture
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A standby is waited for that is behind at all."""
    monkeypatch.setattr(backoff, "MOST_LAG_S", 0.0)
    monkeypatch.setattr(backoff, "_LOOK_EVERY_S", 0.01)


def pause(standby: App) -> None:
    standby.execute("select pg_wal_replay_pause()")
    paused = [("paused",)]
    wait_until(lambda: standby.execute("select pg_get_wal_replay_pause_state()").fetchall() == paused, "for the pause")


@pytest.mark.usefixtures("looks_often")
def test_a_standby_that_is_behind_is_waited_for_and_the_sweep_goes_on_when_it_has_caught_up(
    database: str, standby: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    pause(standby)
    with session_on(database) as session:
        swept = Sweep(OLD_DECLINES, session, options(pace=SLOW))
        steps = iter(swept)
        waiting = next(step for step in steps if step.stage.startswith("waiting for a standby"))
        assert waiting.affected < 60
        assert next(steps).affected == waiting.affected, "nothing is written meanwhile"
        monkeypatch.setattr(backoff, "MOST_LAG_S", 10.0)
        standby.execute("select pg_wal_replay_resume()")
        result = finish(swept, steps)
    assert (result.status, result.affected, result.remaining) == (Status.SUCCESS, 60, 0)
    assert any("for a standby that was behind." in note for note in result.notes)


@pytest.mark.usefixtures("looks_often")
def test_a_standby_that_does_not_catch_up_is_not_waited_for_without_end(
    database: str, standby: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "PATIENCE_S", 0.1)
    pause(standby)
    result = sweep(database, OLD_DECLINES, pace=SLOW)
    standby.execute("select pg_wal_replay_resume()")
    assert (result.status, result.affected, result.remaining) == (Status.SUCCESS, 60, 0)
    assert any("it went on, since the standby did not catch up" in note for note in result.notes)


@pytest.mark.usefixtures("looks_often")
def test_two_connections_have_no_more_patience_with_a_standby_than_one(
    database: str, standby: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "PATIENCE_S", 0.1)
    pause(standby)
    with session_on(database) as session:
        swept = Sweep(OLD_DECLINES, session, options(pace=SLOW))
        result = finish(swept)
        assert swept._work is not None
        beside = swept._work.beside(threading.Event())
        assert list(beside.rest(0.0, 0.0)) == []
        swept._work.take_over(beside)
        swept._work.tell_what_held_it_back()
    standby.execute("select pg_wal_replay_resume()")
    assert len(result.notes) == len(set(result.notes)) == 1


@pytest.mark.usefixtures("standby")
def test_a_standby_that_keeps_up_is_not_waited_for(database: str) -> None:
    result = sweep(database, OLD_DECLINES, pace=TINY)
    assert (result.status, result.affected) == (Status.SUCCESS, 60)
    assert result.notes == []


@pytest.mark.usefixtures("standby")
def test_a_lag_that_the_role_may_not_see_is_told_and_does_not_block(app: App, database: str) -> None:
    app.execute("create role unprivileged login")
    with Session(Database(Database.parse(database).parameters | {"user": "unprivileged"}, "here")) as session:
        found = [str(finding) for finding in inspect(session, OLD_DECLINES).findings]
    app.execute("grant all on all tables in schema public to unprivileged")
    with Session(Database(Database.parse(database).parameters | {"user": "unprivileged"}, "here")) as session:
        found = [str(finding) for finding in inspect(session, OLD_DECLINES).findings]
        result = finish(Sweep(OLD_DECLINES, session, options(pace=TINY)))
    assert any("standbys are behind can't be seen by unprivileged" in told for told in found)
    assert (result.status, result.affected) == (Status.SUCCESS, 60)


def test_the_sweep_rests_after_a_window_that_somebody_waited_for(app: App, database: str) -> None:
    first = app.execute("select id from after_hours_declines order by ctid limit 1").fetchall()[0][0]
    # The row's window does not end before somebody waits for it.
    app.execute(
        f"""
        create function wait_for_a_waiter() returns trigger language plpgsql as $$
        begin
            perform pg_advisory_xact_lock(4711);
            for i in 1..500 loop
                exit when exists (
                    select from pg_locks where not granted and transactionid = pg_current_xact_id()::xid
                );
                perform pg_sleep(0.01);
            end loop;
            return null;
        end $$;
        create trigger wait after delete on after_hours_declines for each row when (old.id = '{first}')
        execute function wait_for_a_waiter();
        """
    )
    in_the_window = "select exists (select from pg_locks where locktype = 'advisory' and objid = 4711)"

    def decline_again() -> None:
        with psycopg.connect(database, autocommit=True) as other:
            wait_until(lambda: other.execute(in_the_window).fetchall() == [(True,)], "for the window")
            other.execute("update after_hours_declines set decline_count = decline_count + 1 where id = %s", [first])

    declining = threading.Thread(target=decline_again)
    declining.start()
    try:
        result = sweep(database, OLD_DECLINES, pace=LARGE)
    finally:
        declining.join()
    assert (result.status, result.affected) == (Status.SUCCESS, 60)
    assert any("others had waited for what they held" in note for note in result.notes)
