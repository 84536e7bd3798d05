"""Large tables: what is read of them, and numbers that no 32 bits hold."""

from datetime import timedelta
from typing import Any

import pytest
from psycopg import Connection

from cleanup_pipeline.cli.display import _how_far
from cleanup_pipeline.demo.data import plant
from cleanup_pipeline.postgres import Limits
from cleanup_pipeline.rules import OLD_DECLINES, RULES, Rule
from cleanup_pipeline.sweep import preflight
from cleanup_pipeline.sweep.result import Progress, Result, Status
from cleanup_pipeline.sweep.statements import Blocks
from cleanup_pipeline.sweep.window import Budget
from cleanup_pipeline.sweep.work import statements_for
from cleanup_pipeline_tests.oracle import expected, snapshot
from cleanup_pipeline_tests.sweep.steps import NOW, options, session_on, sweep

App = Connection[Any]

BILLIONS = 3_000_000_000


def blocks_read(app: App) -> int:
    """So far, by whomever; what a session has read is counted when it ends."""
    app.execute("select pg_stat_force_next_flush()")
    query = "select heap_blks_read + heap_blks_hit from pg_statio_user_tables where relname = 'after_hours_declines'"
    return int(app.execute(query).fetchall()[0][0])


def test_a_table_whose_head_was_emptied_is_read_once_to_clean_it_and_once_to_see_what_remains(
    app: App, database: str
) -> None:
    rows, due, day = 60_000, 40, timedelta(days=1)
    app.execute("alter table after_hours_declines set (autovacuum_enabled = off)")  # it would read the table, too
    app.execute("set session_replication_role = replica")
    app.execute(
        """
        insert into after_hours_declines (id, session_id, user_id, declined_user_id, created_at)
        select gen_random_uuid(), gen_random_uuid(), 'user ' || i, 'another', case when i > %s then %s else %s end
        from generate_series(1, %s) i
        """,
        [rows - due, NOW - 8 * day, NOW - day, rows],
    )
    size = "select pg_relation_size('after_hours_declines') / current_setting('block_size')::int"
    ((pages,),) = app.execute(size).fetchall()
    app.execute(f"delete from after_hours_declines where ctid < '({int(pages * 0.95)},0)'".encode())
    app.execute("vacuum analyze after_hours_declines")
    want = expected(app, NOW)
    before = blocks_read(app)
    result = sweep(database, OLD_DECLINES)
    read = blocks_read(app) - before
    assert (result.status, result.affected, result.remaining) == (Status.SUCCESS, due, 0)
    assert snapshot(app) == want
    assert read <= 2.2 * pages


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule.name))
def test_a_table_without_a_primary_key_is_swept_like_any_other(app: App, database: str, rule: Rule) -> None:
    app.execute(f"alter table {rule.table.name} drop constraint {rule.table.name}_pkey cascade".encode())
    planted = plant(app, 200, NOW)
    want = expected(app, NOW)
    result = sweep(database, rule)
    assert (result.status, result.affected, result.remaining) == (Status.SUCCESS, planted.due[rule.name], 0)
    assert snapshot(app).rows[rule.table.name] == want.rows[rule.table.name]


# --- More rows, and more pages, than 32 bits count.


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule.name))
def test_statements_reach_the_last_pages_of_the_largest_table(app: App, database: str, rule: Rule) -> None:
    plant(app, 50, NOW)
    far, last = Blocks(BILLIONS, BILLIONS + 1000), Blocks(2**32 - 10, 2**32 - 1)
    with session_on(database) as session:
        target = preflight.accept(preflight.inspect(session, rule))
        statements = statements_for(target, options())
        with session.transaction(Limits(5.0), writes=True) as transaction:
            for blocks in (far, last):
                assert transaction.one(statements.count_due(target.leaves[0], blocks)) == (0, None)
                assert transaction.one(statements.count_rows(target.leaves[0], blocks)) == (0,)
                if not rule.orphan_of:
                    assert transaction.change(statements.write(target.leaves[0], blocks)) == 0


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule.name))
def test_a_limit_of_billions_of_rows_is_a_limit_like_any_other(app: App, database: str, rule: Rule) -> None:
    planted = plant(app, 50, NOW)
    budget = Budget(rows=BILLIONS)
    assert sweep(database, rule, budget=budget).affected == planted.due[rule.name]
    assert budget.rows == BILLIONS - planted.due[rule.name]


def test_billions_of_rows_are_told_and_shown_as_they_are() -> None:
    result = Result("old_declines", affected=BILLIONS, remaining=2 * BILLIONS, batches=BILLIONS, duration_s=1000.0)
    told = result.as_json()
    assert (told["affected"], told["remaining"], told["batches"]) == (BILLIONS, 2 * BILLIONS, BILLIONS)
    assert told["rows_per_second"] == 3_000_000
    progress = Progress("old_declines", "windows", BILLIONS, 0.5, 1000.0)
    assert (progress.rows_per_second, progress.left_s) == (3_000_000, 1000.0)
    assert "3,000,000,000 rows" in _how_far(progress)
