"""At full speed two connections walk over a table at once; what one of them meets, the sweep tells."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Literal

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import Connection, sql

from cleanup_pipeline.demo.data import plant
from cleanup_pipeline.demo.schema import create_tables
from cleanup_pipeline.demo.server import embedded_server
from cleanup_pipeline.postgres import CleanupError, Database, Limits, LostConnectionError, Session
from cleanup_pipeline.rules import EXPIRED_SESSIONS, OLD_DECLINES
from cleanup_pipeline.sweep import lock
from cleanup_pipeline.sweep.catalog import Leaf
from cleanup_pipeline.sweep.result import Status
from cleanup_pipeline.sweep.statements import Blocks, Scope
from cleanup_pipeline.sweep.sweep import Sweep
from cleanup_pipeline.sweep.walk import Sections, write_windows
from cleanup_pipeline.sweep.window import Budget, Writer
from cleanup_pipeline.sweep.work import Work
from cleanup_pipeline.sweep.worker import worth_sharing
from cleanup_pipeline_tests.databases import fresh_database, name_of
from cleanup_pipeline_tests.oracle import Tables, expected, snapshot
from cleanup_pipeline_tests.servers import server
from cleanup_pipeline_tests.sweep.steps import (
    LARGE_SHARED,
    NOW,
    PATIENCE_S,
    SHARED,
    connected,
    few_rows_a_page,
    finish,
    options,
    session_on,
    sweep,
    wait_until,
)
from cleanup_pipeline_tests.sweep.wire import BreaksAtCommits, Fault, Then, laid, wire

App = Connection[Any]
FIRST, SECOND = "the first", "the second"
MANY_PAGES = 100_000


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test's server is back at once."""
    monkeypatch.setattr("cleanup_pipeline.postgres._RECONNECT_PAUSES_S", (0.01,) * 10)
    monkeypatch.setattr("cleanup_pipeline.sweep.sweep._RELOCK_PAUSE_S", 0.01)


@pytest.fixture
def want(app: App) -> Tables:
    """What a run must make of tables with enough rows for many windows, and no index that leads to them."""
    few_rows_a_page(app, "after_hours_sessions", "after_hours_declines")
    plant(app, 400, NOW)
    app.execute("drop index after_hours_sessions_active_expiry")
    return expected(app, NOW)


def plant_many(app: App) -> None:
    """The same on a server of a test's own, with more rows a page."""
    create_tables(app)
    plant(app, 2_000, NOW)
    app.execute("drop index after_hours_sessions_active_expiry")


def rows_of(tables: Tables) -> Any:
    return tables.rows["after_hours_sessions"]


class Windows:
    """Every window of a sweep as it is about to be written: by whom, and which. `before` is called first."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.by: dict[str, list[Blocks]] = {FIRST: [], SECOND: []}
        self.before: dict[str, Callable[[], object]] = {}
        self._first = threading.current_thread()
        self._write = Writer.write
        monkeypatch.setattr(Writer, "write", lambda writer, leaf, scope: self._spied(writer, leaf, scope))

    def _spied(self, writer: Writer, leaf: Leaf, scope: Scope) -> int:
        who = FIRST if threading.current_thread() is self._first else SECOND
        assert isinstance(scope, Blocks)
        self.by[who].append(scope)
        if who in self.before:
            self.before[who]()
        return self._write(writer, leaf, scope)

    def wait_for(self, who: str, number: int = 1) -> None:
        """Wait until `who` has begun window `number`."""
        wait_until(lambda: len(self.by[who]) >= number, f"{who} to begin window {number}")

    def once(self, who: str, number: int, what: Callable[[], object]) -> None:
        """Do `what` before window `number` of `who`, and have the other wait for that, once it has begun."""
        done = threading.Event()
        other = SECOND if who == FIRST else FIRST

        def do() -> None:
            if len(self.by[who]) == number:
                self.wait_for(other)
                try:
                    what()
                finally:
                    done.set()

        self.before = {who: do, other: lambda: done.wait(PATIENCE_S)}


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> Windows:
    return Windows(monkeypatch)


def second_of(session: Session) -> Session:
    assert session._second is not None
    return session._second


# --- Who walks where.


@given(st.integers(0, 5_000), st.integers(1, 3))
def test_sections_cover_a_table_from_its_first_block_to_its_last_and_none_twice(pages: int, walks: int) -> None:
    sections = Sections(pages, walks)
    taken = list(iter(sections.take, None))
    assert [block for section in taken for block in range(section.first, section.end)] == list(range(pages))
    assert len(taken) <= 600
    if walks == 1:
        assert len(taken) <= 1


def test_two_connections_clean_a_table_together(app: App, database: str, want: Tables, windows: Windows) -> None:
    due = (rows_of(snapshot(app)) - rows_of(want)).total()
    windows.once(FIRST, 2, lambda: windows.wait_for(SECOND))
    with session_on(database) as session:
        swept = Sweep(EXPIRED_SESSIONS, session, options(pace=SHARED))
        seen = [progress.affected for progress in swept]
    result = swept.result
    assert (result.status, result.affected, result.remaining) == (Status.SUCCESS, due, 0)
    assert rows_of(snapshot(app)) == rows_of(want)
    assert result.batches == len(windows.by[FIRST]) + len(windows.by[SECOND])
    blocks = [{block for window in by for block in range(window.first, window.end)} for by in windows.by.values()]
    assert all(blocks)
    assert not blocks[0] & blocks[1]
    assert seen == sorted(seen)
    assert (result.access or "").endswith(", on two connections")


@pytest.mark.parametrize(
    "chosen",
    [
        {"budget": Budget(rows=1_000)},
        {"pace": replace(SHARED, shared_from=1_000)},
        {"pooled": True},
        {"rule": OLD_DECLINES},
    ],
    ids=["up to a limit", "small", "behind a pooler", "to delete"],
)
@pytest.mark.usefixtures("want")
def test_a_table_is_walked_on_one_connection(database: str, windows: Windows, chosen: dict[str, Any]) -> None:
    ordinary: dict[str, Any] = {"rule": EXPIRED_SESSIONS, "pace": SHARED}
    result = sweep(database, **ordinary | chosen)
    assert (result.status, result.remaining) == (Status.SUCCESS, 0)
    assert windows.by[FIRST]
    assert not windows.by[SECOND]
    assert "two connections" not in (result.access or "")


@pytest.mark.usefixtures("want")
def test_where_triggers_may_wait_for_each_other_one_connection_walks(app: App, database: str, windows: Windows) -> None:
    app.execute("create table closed (rows int); insert into closed values (0)")
    app.execute(
        "create function count_it() returns trigger language plpgsql as"
        " 'begin update closed set rows = rows + 1; return new; end';"
        "create trigger count_it before update on after_hours_sessions for each row execute function count_it()"
    )
    result = sweep(database, EXPIRED_SESSIONS, pace=SHARED)
    assert (result.status, result.remaining) == (Status.SUCCESS, 0)
    assert not windows.by[SECOND]
    assert app.execute("select rows from closed").fetchall() == [(result.affected,)]


@pytest.mark.usefixtures("want")
def test_where_the_server_admits_no_second_connection_the_first_walks_alone(
    app: App, database: str, windows: Windows
) -> None:
    role = f"only_once_{name_of(database)}"
    app.execute(
        sql.SQL("create role {} superuser login connection limit 1; alter role {} nosuperuser").format(
            sql.Identifier(role), sql.Identifier(role)
        )
    )
    try:
        app.execute(
            sql.SQL("grant select, update, delete on all tables in schema public to {}").format(sql.Identifier(role))
        )
        windows.before[FIRST] = lambda: time.sleep(0.01)  # time enough to be refused while it walks
        result = sweep(psycopg.conninfo.make_conninfo(database, user=role), EXPIRED_SESSIONS, pace=SHARED)
        assert (result.status, result.remaining) == (Status.SUCCESS, 0), result.error
        assert not windows.by[SECOND]
        assert any("the first went on alone" in note and "connection limit" in note for note in result.notes)
        assert "two connections" not in (result.access or "")
    finally:
        app.execute(sql.SQL("drop owned by {}; drop role {}").format(sql.Identifier(role), sql.Identifier(role)))


@pytest.mark.usefixtures("want")
def test_a_second_connection_that_leads_to_another_server_writes_nothing(
    database: str, windows: Windows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a host name with several addresses does that are no one cluster."""
    with embedded_server(durable=False) as other:
        elsewhere = Database.parse(other.url())
        monkeypatch.setattr(Session, "second", lambda session: Session(elsewhere, session.application_name))
        result = sweep(database, EXPIRED_SESSIONS, pace=SHARED)
    assert (result.status, result.remaining) == (Status.SUCCESS, 0)
    assert not windows.by[SECOND]
    assert any("another server" in note for note in result.notes)


def test_nothing_is_looked_for_again_after_two_have_walked_and_nobody_else_has_written() -> None:
    with embedded_server(durable=False) as alone, psycopg.connect(alone.url(), autocommit=True) as app:
        plant_many(app)

        def looked() -> bool:
            app.execute("update after_hours_sessions set ended_at = null, expires_at = expires_at - interval '8 days'")
            with session_on(alone.url()) as session:
                swept = Sweep(EXPIRED_SESSIONS, session, options(pace=LARGE_SHARED))
                looked = any("looking" in progress.stage for progress in swept)
            assert (swept.result.access or "").endswith("two connections")
            return looked

        assert not all(looked() for _ in range(20))  # an autovacuum may write at any moment


# --- What either meets.


def gives_up_at_once(work: Work, leaf: Leaf, sections: Sections) -> Iterator[None]:
    """A walk that takes a section and, where it is the second, does nothing of it."""
    for step in write_windows(work, leaf, sections):
        if threading.current_thread() is not threading.main_thread():
            raise LostConnectionError("It was lost.")
        yield step


def end(app: App, *sessions: Session) -> None:
    for session in sessions:
        app.execute("select pg_terminate_backend(%s, 10000)", [session.backend_pid])


@pytest.mark.parametrize("lost", [[FIRST], [SECOND], [FIRST, SECOND]], ids=" and ".join)
@pytest.mark.parametrize("at", [FIRST, SECOND])
def test_whichever_connection_is_lost_nothing_is_lost_with_it(
    app: App, database: str, want: Tables, windows: Windows, lost: list[str], at: str
) -> None:
    due = (rows_of(snapshot(app)) - rows_of(want)).total()
    with session_on(database) as session:
        swept = Sweep(EXPIRED_SESSIONS, session, options(pace=SHARED))

        def lose() -> None:
            sessions = {FIRST: session, SECOND: second_of(session)}
            end(app, *(sessions[who] for who in lost))

        windows.once(at, 2, lose)
        result = finish(swept)
        assert session.generation == 1 + (FIRST in lost)
    assert (result.status, result.affected, result.remaining) == (Status.SUCCESS, due, 0), result.error
    assert rows_of(snapshot(app)) == rows_of(want)
    assert windows.by[SECOND]
    assert any("the first went on alone" in note for note in result.notes)


def test_what_a_worker_leaves_of_its_section_is_done_although_nobody_else_has_written(
    windows: Windows, monkeypatch: pytest.MonkeyPatch
) -> None:
    with embedded_server(durable=False) as alone, psycopg.connect(alone.url(), autocommit=True) as app:
        plant_many(app)
        app.execute("alter system set autovacuum = off")
        app.execute("select pg_reload_conf()")
        want = expected(app, NOW)
        windows.once(SECOND, 1, lambda: None)
        monkeypatch.setattr("cleanup_pipeline.sweep.worker.write_windows", gives_up_at_once)
        result = sweep(alone.url(), EXPIRED_SESSIONS, pace=SHARED)
        assert (result.status, result.remaining) == (Status.SUCCESS, 0)
        assert rows_of(snapshot(app)) == rows_of(want)


def test_where_another_sweep_has_the_lock_neither_connection_writes_any_more(
    app: App, database: str, want: Tables, windows: Windows
) -> None:
    before = snapshot(app)
    overtaken = threading.Event()
    with session_on(database) as session, session_on(database) as another:
        swept = Sweep(EXPIRED_SESSIONS, session, options(pace=SHARED))

        def overtake() -> None:
            if len(windows.by[FIRST]) == 3:
                windows.wait_for(SECOND)
                end(app, session)
                assert lock.hold(another, EXPIRED_SESSIONS.name)
                overtaken.set()
                # The first learns nothing of it yet.
                wait_until(lambda: not second_walks(), "the second to end by itself")

        windows.before = {FIRST: overtake, SECOND: lambda: overtaken.wait(PATIENCE_S)}
        result = finish(swept)
    assert result.status is Status.FAILED
    assert "another session has it now" in (result.error or "")
    assert len(windows.by[SECOND]) == 1  # the one that was on
    gone = rows_of(before) - rows_of(snapshot(app))
    assert gone.total() == result.affected < (rows_of(before) - rows_of(want)).total()


@contextmanager
def second_by(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have every second connection go by way of `url`."""

    def second(session: Session) -> Session:
        session._second = Session(Database.parse(url), session.application_name)
        return session._second

    with monkeypatch.context() as patch:
        patch.setattr(Session, "second", second)
        yield


@pytest.mark.parametrize("at", ["before", "after"])
def test_a_second_connection_that_is_lost_during_a_commit_neither_loses_nor_doubles_what_is_counted(
    app: App,
    server_url: str,
    database: str,
    want: Tables,
    windows: Windows,
    monkeypatch: pytest.MonkeyPatch,
    at: Literal["before", "after"],
) -> None:
    due = (rows_of(snapshot(app)) - rows_of(want)).total()
    windows.once(FIRST, 2, lambda: None)
    with wire(server_url, at) as broken, second_by(broken.url(database), monkeypatch):
        result = sweep(database, EXPIRED_SESSIONS, pace=SHARED)
        assert broken.breaks_left == 0
    assert (result.status, result.affected, result.remaining) == (Status.SUCCESS, due, 0), result.error
    assert rows_of(snapshot(app)) == rows_of(want)


@pytest.mark.parametrize("known", [True, False], ids=["settled", "unknown"])
@pytest.mark.usefixtures("want")
def test_a_commit_that_was_in_doubt_when_the_sweep_was_interrupted_is_settled_or_told(
    app: App, server_url: str, database: str, windows: Windows, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    if not known:
        monkeypatch.setattr(Session, "settled", lambda *_: None)
        monkeypatch.setattr("cleanup_pipeline.sweep.reader._SETTLES_WITHIN_S", 0.0)
    before = snapshot(app)
    stop = threading.Event()
    with (
        wire(server_url, "after") as broken,
        second_by(broken.url(database), monkeypatch),
        session_on(database) as session,
    ):

        def stop_when_it_is_lost() -> None:
            if len(windows.by[FIRST]) == 3:
                wait_until(lambda: broken.breaks_left == 0 and not second_walks(), "the second to be lost")
                stop.set()

        windows.before[FIRST] = stop_when_it_is_lost
        result = finish(Sweep(EXPIRED_SESSIONS, session, options(pace=SHARED), stop))
    gone = (rows_of(before) - rows_of(snapshot(app))).total()
    assert result.status is Status.INTERRUPTED
    assert ("not counted" in (result.error or "")) is not known
    assert result.affected == gone if known else result.affected < gone


def test_an_id_that_a_crashed_server_gives_out_again_is_not_taken_for_that_of_the_lost_commit(
    windows: Windows, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server(18) as own, fresh_database(own.url) as url, connected(url) as app:
        plant_many(app)
        before, want = snapshot(app), expected(app, NOW)
        app.execute("alter system set wal_writer_delay = '10s'")  # nothing of the lost one is to reach the disk
        app.execute("select pg_reload_conf()")
        crashed = threading.Event()

        def crash() -> None:
            own.crash()
            own.start()
            crashed.set()

        windows.before = {
            FIRST: lambda: len(windows.by[FIRST]) < 2 or crashed.wait(PATIENCE_S),
            SECOND: lambda: windows.wait_for(FIRST, 2),
        }
        with laid(BreaksAtCommits(own.url, "before", strike=crash)) as broken, second_by(broken.url(url), monkeypatch):
            result = sweep(url, EXPIRED_SESSIONS, pace=SHARED)
        with connected(url) as again:
            after = snapshot(again)
    assert crashed.is_set()
    assert (result.status, result.remaining) == (Status.SUCCESS, 0), result.error
    assert result.affected == (rows_of(before) - rows_of(after)).total()
    assert rows_of(after) == rows_of(want)


@pytest.mark.parametrize("messages", [25, 32])
def test_a_second_connection_that_falls_silent_is_given_up_and_its_work_done(
    app: App,
    server_url: str,
    database: str,
    want: Tables,
    windows: Windows,
    monkeypatch: pytest.MonkeyPatch,
    messages: int,
) -> None:
    monkeypatch.setattr("cleanup_pipeline.sweep.worker._PATIENCE_S", 0.1)
    monkeypatch.setattr("cleanup_pipeline.postgres._SILENCE_S", 3600.0)
    due = (rows_of(snapshot(app)) - rows_of(want)).total()
    windows.once(FIRST, 1, lambda: None)
    with (
        laid(Fault(server_url, messages, "before", lambda: Then.SWALLOW)) as silent,
        second_by(silent.url(database), monkeypatch),
    ):
        result = sweep(database, EXPIRED_SESSIONS, pace=SHARED)
        assert silent.struck.is_set()
    assert (result.status, result.affected, result.remaining) == (Status.SUCCESS, due, 0), result.error
    assert rows_of(snapshot(app)) == rows_of(want)
    assert any("the first went on alone" in note for note in result.notes)


def second_walks() -> int:
    """How many second walks there are at work."""
    return sum(thread.name.endswith("second walk") for thread in threading.enumerate())


def test_a_second_connection_that_does_not_come_up_is_not_waited_for(
    app: App, database: str, want: Tables, windows: Windows, monkeypatch: pytest.MonkeyPatch
) -> None:
    due = (rows_of(snapshot(app)) - rows_of(want)).total()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://somebody@127.0.0.1:{silent.getsockname()[1]}/nothing"
        with second_by(url, monkeypatch), session_on(database) as session:
            swept = Sweep(EXPIRED_SESSIONS, session, options(pace=SHARED))
            result = finish(swept)
            assert second_walks() == 1, "it still tries"
            assert swept._work is not None
            assert not worth_sharing(swept._work, MANY_PAGES), "no other is started beside it"
    wait_until(lambda: not second_walks(), "the second to be refused")
    assert worth_sharing(swept._work, MANY_PAGES)
    assert (result.status, result.affected, result.remaining) == (Status.SUCCESS, due, 0)
    assert not windows.by[SECOND]
    assert "two connections" not in (result.access or "")


@pytest.mark.usefixtures("want")
def test_a_cancel_that_meets_the_second_between_its_windows_does_not_end_the_sweep(
    database: str, windows: Windows, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows.once(FIRST, 2, lambda: None)
    asked: list[bool] = []

    def is_held(*given: Any, **by: Any) -> bool:
        asked.append(True)
        if len(asked) == 3:
            raise psycopg.errors.QueryCanceled
        return lock.is_held(*given, **by)

    monkeypatch.setattr("cleanup_pipeline.sweep.worker.lock", SimpleNamespace(is_held=is_held))
    result = sweep(database, EXPIRED_SESSIONS, pace=SHARED)
    assert (result.status, result.remaining) == (Status.SUCCESS, 0), result.error
    assert len(windows.by[SECOND]) == 2


@pytest.mark.parametrize("at", [FIRST, SECOND])
@pytest.mark.usefixtures("want")
def test_an_interrupt_stops_both_within_a_window_and_what_was_committed_is_told(
    app: App, database: str, windows: Windows, at: str
) -> None:
    before = snapshot(app)
    stop = threading.Event()
    with session_on(database) as session:
        swept = Sweep(EXPIRED_SESSIONS, session, options(pace=SHARED), stop)
        windows.once(at, 3, stop.set)
        result = finish(swept)
        assert not second_of(session).alive
    gone = rows_of(before) - rows_of(snapshot(app))
    assert (result.status, result.affected) == (Status.INTERRUPTED, gone.total())
    assert all(len(by) <= 4 for by in windows.by.values())


@pytest.mark.usefixtures("want")
def test_a_sweep_that_is_given_up_leaves_nobody_at_work(app: App, database: str, windows: Windows) -> None:
    before = snapshot(app)
    with session_on(database) as session:
        swept = Sweep(EXPIRED_SESSIONS, session, options(pace=SHARED))
        windows.before[FIRST] = lambda: windows.wait_for(SECOND)
        steps = iter(swept)
        while next(steps).stage != "windows":
            pass
        steps.close()  # type: ignore[attr-defined]  # a generator
        assert not second_of(session).alive
    gone = rows_of(before) - rows_of(snapshot(app))
    assert swept.result.affected == gone.total()


@pytest.mark.usefixtures("want")
def test_the_time_limit_ends_both(app: App, database: str, windows: Windows) -> None:
    before = snapshot(app)
    budget = Budget(deadline=time.monotonic() + 3600)

    def time_is_up() -> None:
        budget.deadline = time.monotonic()

    windows.once(FIRST, 3, time_is_up)
    result = sweep(database, EXPIRED_SESSIONS, pace=SHARED, budget=budget)
    gone = rows_of(before) - rows_of(snapshot(app))
    assert (result.status, result.affected) == (Status.SUCCESS, gone.total())
    assert all(len(by) <= 4 for by in windows.by.values())


@pytest.mark.parametrize("at", [FIRST, SECOND])
def test_what_either_meets_that_preflight_has_not_seen_ends_the_sweep(
    app: App, database: str, want: Tables, windows: Windows, at: str
) -> None:
    before = snapshot(app)

    def put_a_trigger_on_the_table() -> None:
        app.execute(
            "create function opens() returns trigger language plpgsql as"
            " 'begin new.ended_at = null; return new; end';"
            "create trigger opens before update on after_hours_sessions for each row execute function opens()"
        )

    windows.once(at, 3, put_a_trigger_on_the_table)
    result = sweep(database, EXPIRED_SESSIONS, pace=SHARED)
    gone = rows_of(before) - rows_of(snapshot(app))
    assert (result.status, result.affected) == (Status.FAILED, gone.total())
    assert "During the sweep a trigger was put on" in (result.error or "")
    assert all(len(by) <= 4 for by in windows.by.values())
    assert gone <= rows_of(before) - rows_of(want)


@pytest.mark.usefixtures("want")
def test_rows_that_are_locked_and_rows_that_cant_be_changed_are_told_whoever_meets_them(
    app: App, database: str
) -> None:
    expired = [
        identity
        for (identity,) in app.execute(
            "select id from after_hours_sessions where ended_at is null and expires_at < %s order by ctid", [NOW]
        ).fetchall()
    ]
    bad, locked = expired[::20], expired[1::20]
    app.execute("update after_hours_sessions set fuzzed_latitude = -1 where id = any(%s)", [bad])
    app.execute("alter table after_hours_sessions add constraint kept check (fuzzed_latitude >= 0) not valid")
    want = expected(app, NOW)
    with connected(database) as user:
        user.execute("begin")
        user.execute("select from after_hours_sessions where id = any(%s) for update", [locked])
        result = sweep(database, EXPIRED_SESSIONS, pace=SHARED)
    assert (result.status, result.affected, result.remaining) == (
        Status.FAILED,
        len(expired) - len(bad) - len(locked),
        len(bad) + len(locked),
    )
    assert "kept" in (result.error or "")
    assert snapshot(app).only_here(want)["after_hours_sessions"] == result.remaining


@pytest.mark.parametrize("cut_short", [Session.cancel, Session.abandon])
def test_whatever_cuts_a_session_short_cuts_its_second_short(
    app: App, database: str, cut_short: Callable[[Session], None]
) -> None:
    ended: list[Exception] = []

    def sleep(second: Session) -> None:
        try:
            with second.transaction(Limits(statement_s=60.0)) as transaction:
                transaction.run(sql.SQL("select pg_sleep(60)"))
        except (psycopg.Error, CleanupError) as error:
            ended.append(error)

    with session_on(database) as session, session.second() as second:
        second.connect()
        sleeping = threading.Thread(target=sleep, args=[second])
        sleeping.start()
        asleep = "select count(*) from pg_stat_activity where pid = %s and wait_event = 'PgSleep'"
        wait_until(lambda: app.execute(asleep, [second.backend_pid]).fetchall() == [(1,)], "for it to sleep")
        cut_short(session)
        sleeping.join(PATIENCE_S)
    assert isinstance(ended[0], psycopg.errors.QueryCanceled | LostConnectionError)
