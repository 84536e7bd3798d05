"""The walk over a table's blocks writes where rows are due, and only reads where none are."""

from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise
from threading import Event
from typing import Any

import pytest
from psycopg import Connection, sql

from cleanup_pipeline.postgres import Limits
from cleanup_pipeline.rules import EXPIRED_SESSIONS, OLD_DECLINES
from cleanup_pipeline.sweep.pace import DEFAULT, FULL_SPEED, Pace
from cleanup_pipeline.sweep.preflight import accept, inspect
from cleanup_pipeline.sweep.reader import Reader
from cleanup_pipeline.sweep.result import Status
from cleanup_pipeline.sweep.statements import IN_BLOCK_ORDER, Blocks
from cleanup_pipeline.sweep.sweep import Sweep
from cleanup_pipeline.sweep.walk import Sections, Walk
from cleanup_pipeline.sweep.work import statements_for
from cleanup_pipeline_tests.sweep import rows
from cleanup_pipeline_tests.sweep.steps import (
    LARGE,
    NOW,
    SHARED,
    TINY,
    UNRESTED,
    few_rows_a_page,
    options,
    session_on,
    sweep,
)

App = Connection[Any]
OLD, YOUNG = NOW - timedelta(days=8), NOW - timedelta(days=1)

each_pace = pytest.mark.parametrize("pace", [TINY, UNRESTED, LARGE, SHARED], ids=lambda pace: pace.name)


@each_pace
def test_where_nothing_is_due_nothing_is_written_to(app: App, database: str, pace: Pace) -> None:
    few_rows_a_page(app, "after_hours_declines")
    for _ in range(200):
        rows.decline(app, YOUNG)
    # It fires also for a statement that finds no row.
    app.execute(
        "create function forbid() returns trigger language plpgsql as $$ begin raise 'written to'; end $$;"
        "create trigger forbid before delete on after_hours_declines for each statement execute function forbid()"
    )
    result = sweep(database, OLD_DECLINES, pace=pace)
    assert (result.status, result.affected, result.remaining, result.batches) == (Status.SUCCESS, 0, 0, 0)


@each_pace
def test_a_row_that_is_due_is_found_wherever_it_lies(app: App, database: str, pace: Pace) -> None:
    few_rows_a_page(app, "after_hours_declines")
    for stretch in (0, 1, 2, 40, 90):
        for _ in range(stretch):
            rows.decline(app, YOUNG)
        rows.decline(app, OLD)
    result = sweep(database, OLD_DECLINES, pace=pace)
    assert (result.status, result.affected, result.remaining) == (Status.SUCCESS, 5, 0)


def test_a_walk_goes_over_to_reading_behind_the_last_row_that_is_due(app: App, database: str) -> None:
    few_rows_a_page(app, "after_hours_declines")
    for at in (OLD, YOUNG):
        for _ in range(100):
            rows.decline(app, at)
    result = sweep(database, OLD_DECLINES, pace=LARGE)
    ((pages,),) = app.execute("select max((ctid::text::point)[0]) from after_hours_declines").fetchall()
    assert result.affected == 100
    assert pages > 20
    assert result.batches < pages / 2


def test_a_page_of_dear_rows_is_taken_row_by_row(app: App, database: str) -> None:
    for index in range(100):
        rows.decline(app, OLD if index % 2 else YOUNG)
    app.execute(
        "create function work() returns trigger language plpgsql as $$"
        " begin perform pg_sleep(0.01); return old; end $$;"
        "create trigger work after delete on after_hours_declines for each row execute function work()"
    )
    with session_on(database) as session:
        swept = Sweep(OLD_DECLINES, session, options(pace=UNRESTED))
        affected = [progress.affected for progress in swept]
    steps = [after - before for before, after in pairwise([0, *affected]) if after > before]
    assert (swept.result.status, swept.result.affected) == (Status.SUCCESS, 50)
    assert max(steps[1:]) <= 2  # the first page tells what its rows cost


def walked(
    database: str, pace: Pace, left: Callable[[int, int], int], cost: Callable[[int, int, int], float]
) -> list[tuple[int, float]]:
    """Rows and seconds of each window of a walk over the declines, of which nothing is written.

    `left(block, blocks)` rows are due in a block; a window of so many pages and rows, where `full` rows fill a page,
    takes `cost(pages, rows, full)` seconds.
    """
    with session_on(database) as session:
        target = accept(inspect(session, OLD_DECLINES))
        statements = statements_for(target, options())
        reader = Reader(session, pace, Event())
        blocks = reader.pages(statements, target.leaves[0])
        full = 12_000 // blocks
        walk = Walk(target.leaves[0], Sections(blocks), statements, reader, pace)
        due = {block: min(full, left(block, blocks)) for block in range(blocks)}
        took = []
        for window in walk:
            if window is None:
                continue
            changed = 0
            for block in range(window.first, window.end):
                taken = due[block] if window.most is None else min(due[block], window.most - changed)
                due[block] -= taken
                changed += taken
            took.append((changed, cost(window.end - window.first, changed, full)))
            walk.took(window, *took[-1])
    assert not any(due.values())
    return took


def plant_declines(app: App) -> None:
    alive, one, other = rows.session(app), rows.user(app), rows.user(app)
    app.execute("alter table after_hours_declines drop constraint after_hours_declines_user_id_declined_user_id_key")
    app.execute(
        "insert into after_hours_declines (session_id, user_id, declined_user_id, created_at)"
        " select %s, %s, %s, %s from generate_series(1, 12000)",
        [alive, one, other, OLD],
    )
    app.execute("analyze after_hours_declines")


MANY = 1_000


@pytest.mark.parametrize("few", [2, 5, 50])
@pytest.mark.parametrize("pace", [DEFAULT, FULL_SPEED], ids=lambda pace: pace.name)
def test_behind_a_stretch_of_few_due_rows_one_of_many_makes_no_long_window(
    app: App, database: str, pace: Pace, few: int
) -> None:
    few_rows_a_page(app, "after_hours_declines")
    plant_declines(app)
    took = walked(
        database,
        pace,
        lambda block, blocks: MANY if block > blocks // 2 or not block % few else 0,
        lambda pages, changed, full: 5e-6 * pages + 0.5e-3 / full * changed,
    )
    assert max(seconds for _, seconds in took) < 2.5 * pace.window_s


@pytest.mark.parametrize("round_trips_s", [0.0005, 0.002, 0.03])
def test_a_far_server_does_not_make_windows_small(app: App, database: str, round_trips_s: float) -> None:
    plant_declines(app)
    took = walked(
        database, DEFAULT, lambda *_: MANY, lambda pages, changed, _: round_trips_s + 5e-6 * pages + 46e-6 * changed
    )
    # In half of a window there is time for 7 rows, and each eighth window is short.
    assert sum(changed for changed, _ in took) / len(took) > 5


@each_pace
def test_the_way_done_is_never_told_to_be_less_than_before(app: App, database: str, pace: Pace) -> None:
    few_rows_a_page(app, "after_hours_sessions")
    app.execute("drop index after_hours_sessions_active_expiry")
    for index in range(200):
        rows.session(app, NOW - timedelta(days=1 if index % 30 == 0 else -1))
    with session_on(database) as session:
        shares = [p.share for p in Sweep(EXPIRED_SESSIONS, session, options(pace=pace)) if p.stage == "windows"]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_the_next_row_that_is_due_is_looked_for_in_the_order_of_the_blocks(app: App, database: str) -> None:
    for days in (1, 5, 2):  # an index would lead to the oldest, in the midst of the table
        rows.session(app, NOW - timedelta(days=days))
    app.execute("analyze after_hours_sessions")
    with session_on(database) as session:
        target = accept(inspect(session, EXPIRED_SESSIONS))
        query = statements_for(target, options()).first_due(target.leaves[0])
        with session.transaction(Limits(statement_s=1.0)) as transaction:
            transaction.run(IN_BLOCK_ORDER)
            explain = sql.SQL("explain (costs off) {}").format(query)
            plan = [line for (line,) in transaction.rows(explain, Blocks(0, 1).bounds)]
    assert "Tid Range Scan" in " ".join(plan)
    assert not any("Index" in line or "Seq Scan" in line for line in plan)


def test_a_window_follows_no_index_however_few_rows_the_planner_believes_to_be_due(app: App, database: str) -> None:
    few_rows_a_page(app, "after_hours_sessions")
    for _ in range(500):
        rows.session(app, NOW + timedelta(days=1))
    app.execute("analyze after_hours_sessions")
    app.execute("update after_hours_sessions set expires_at = %s", [NOW - timedelta(days=1)])
    with session_on(database) as session:
        target = accept(inspect(session, EXPIRED_SESSIONS))
        statements, (leaf,) = statements_for(target, options()), target.leaves
        blocks = Blocks(0, 40)
        for write in (
            statements.write(leaf, blocks),
            statements.write_picked(leaf, blocks, limit=10, skip_locked=False),
            statements.write_picked(leaf, blocks, limit=10, skip_locked=True),
        ):
            with session.transaction(Limits(statement_s=1.0), writes=True) as transaction:
                plan = [line for (line,) in transaction.rows(sql.SQL("explain (costs off) {}").format(write))]
            assert not any("Index" in line for line in plan), plan
