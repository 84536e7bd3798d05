from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg import Connection

from cleanup_pipeline.demo.data import Planted, counts, plant
from cleanup_pipeline.demo.schema import TABLES, add_foreign_keys
from cleanup_pipeline.rules import MAX_ORPHANED_SHARE, RULES
from cleanup_pipeline_tests.oracle import expected, snapshot

SIZES = [1, 2, 3, 10, 11, 1000, 1001, 5000]


def due_by_the_promises(connection: Connection, as_of: datetime) -> Mapping[str, int]:
    changed = snapshot(connection).only_here(expected(connection, as_of))
    return {rule.name: changed[rule.table.name] for rule in RULES}


def indexes_and_constraints(connection: Connection) -> set[tuple[str, ...]]:
    return set(
        connection.execute("""
            select indexname, indexdef from pg_indexes where schemaname = 'public'
            union all
            select conrelid::regclass || '.' || conname, pg_get_constraintdef(oid) from pg_constraint
            where connamespace = 'public'::regnamespace
        """)
    )


@pytest.mark.parametrize("rows", SIZES)
def test_what_was_planted_is_what_the_promises_clean(app: Connection, rows: int) -> None:
    planted = plant(app, rows)
    assert due_by_the_promises(app, planted.now) == planted.due
    assert expected(app, planted.now).counts() == planted.kept
    assert counts(app) == planted.rows == snapshot(app).counts()


def test_the_numbers_hold_for_the_better_part_of_an_hour(app: Connection) -> None:
    planted = plant(app, 1000)
    assert due_by_the_promises(app, planted.now + timedelta(minutes=50)) == planted.due


@pytest.mark.parametrize("rows", [1000, 1001, 5000])
def test_orphans_are_fewer_than_the_fuse_allows_even_with_the_young_ones(app: Connection, rows: int) -> None:
    planted = plant(app, rows)
    grown_old = due_by_the_promises(app, planted.now + timedelta(hours=2))
    for rule in RULES:
        if rule.orphan_of:
            assert planted.due[rule.name] < grown_old[rule.name] < MAX_ORPHANED_SHARE * rows


def test_every_row_holds_for_a_given_now(app: Connection) -> None:
    now = datetime(2026, 3, 29, 4, tzinfo=UTC)
    planted = plant(app, 100, now)
    assert planted.now == now
    assert due_by_the_promises(app, now) == planted.due


def test_rows_that_only_look_due_are_among_them(app: Connection) -> None:
    now = plant(app, 1000).now
    numbers = app.execute(
        """
        select
            (select count(*) from after_hours_sessions where ended_at is null and expires_at > %(now)s),
            (select count(*) from after_hours_sessions where ended_at < expires_at),
            (select count(*) from after_hours_declines where created_at = %(now)s - interval '167 hours'),
            (select count(*) from after_hours_declines where created_at > %(now)s),
            (select count(*) from device_fingerprints where session_id is null),
            (select count(*) from after_hours_profiles where created_at < %(now)s - interval '1 hour'
                and updated_at > %(now)s - interval '1 hour')
        """,
        {"now": now},
    ).fetchone()
    assert numbers == (100, 100, 100, 100, 100, 10)


def test_the_order_of_rows_is_not_the_order_of_keys(app: Connection) -> None:
    plant(app, 1000)
    for table, key in [
        ("after_hours_sessions", "id"),
        ("device_fingerprints", "id"),
        ("after_hours_profiles", "user_id"),
    ]:
        keys = [row[0] for row in app.execute(f"select {key} from {table} order by ctid")]
        assert keys != sorted(keys)


def test_planting_leaves_keys_and_indexes_as_they_were(app: Connection) -> None:
    before = indexes_and_constraints(app)
    plant(app, 10)
    assert indexes_and_constraints(app) == before


def test_production_s_foreign_keys_fit_the_empty_tables_but_not_orphans(app: Connection) -> None:
    plant(app, 10)
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        add_foreign_keys(app)
    app.execute("truncate users cascade")
    app.execute("truncate after_hours_profiles, after_hours_preferences")
    add_foreign_keys(app)


def test_with_production_s_foreign_keys_an_orphan_can_not_be_planted(guarded_database: str) -> None:
    with psycopg.connect(guarded_database) as connection, pytest.raises(psycopg.errors.ForeignKeyViolation):
        plant(connection, 10)


def test_numbers_are_known_of_every_rule_and_every_table(app: Connection) -> None:
    planted: Planted = plant(app, 1)
    assert set(planted.due) == {rule.name for rule in RULES}
    assert set(planted.rows) == set(planted.kept) == set(TABLES)
