"""How much of its table an orphan rule may take, told by counting and before anything is written."""

from datetime import timedelta
from typing import Any

import pytest
from psycopg import Connection

from cleanup_pipeline.rules import OLD_DECLINES, ORPHANED_FINGERPRINTS, ORPHANED_PROFILES
from cleanup_pipeline.sweep.finding import RefusedError
from cleanup_pipeline.sweep.fuse import Fuse
from cleanup_pipeline.sweep.pace import Pace
from cleanup_pipeline.sweep.plan import plan
from cleanup_pipeline.sweep.result import Status
from cleanup_pipeline.sweep.sweep import Sweep
from cleanup_pipeline.sweep.window import Budget
from cleanup_pipeline_tests.oracle import expected, snapshot
from cleanup_pipeline_tests.sweep import rows
from cleanup_pipeline_tests.sweep.steps import LARGE, NOW, TINY, UNRESTED, advance, finish, options, session_on, sweep

DAY = timedelta(days=1)

App = Connection[Any]


def plant_fingerprints(app: App, *, orphans: int, of: int, young: int = 0) -> None:
    """`of` fingerprints, `orphans` of them orphaned and old enough to be due, and `young` of them orphaned lately."""
    alive = rows.session(app)
    app.execute(
        "insert into device_fingerprints (user_id, session_id, device_id, created_at)"
        " select u.id, case when i <= %(orphans)s + %(young)s then gen_random_uuid() else %(alive)s end, 'device',"
        " case when i <= %(orphans)s then %(old)s else %(now)s end"
        " from generate_series(1, %(of)s) i, (select id from users limit 1) u",
        {"orphans": orphans, "of": of, "young": young, "alive": alive, "old": NOW - DAY, "now": NOW},
    )


@pytest.mark.parametrize("pooled", [False, True], ids=["alone", "behind_a_pooler"])
@pytest.mark.parametrize("pace", [UNRESTED, LARGE], ids=lambda pace: str(pace.name))
@pytest.mark.parametrize("orphans", [999, 1000])
def test_up_to_a_quarter_of_a_table_is_taken(app: App, database: str, orphans: int, pace: Pace, pooled: bool) -> None:
    plant_fingerprints(app, orphans=orphans, of=4000)
    want = expected(app, NOW)
    result = sweep(database, ORPHANED_FINGERPRINTS, pace=pace, pooled=pooled)
    assert (result.status, result.affected, result.remaining) == (Status.SUCCESS, orphans, 0)
    assert snapshot(app) == want


@pytest.mark.parametrize("pooled", [False, True], ids=["alone", "behind_a_pooler"])
@pytest.mark.parametrize("pace", [TINY, UNRESTED, LARGE], ids=lambda pace: str(pace.name))
def test_one_row_more_is_refused_and_nothing_touched(app: App, database: str, pace: Pace, pooled: bool) -> None:
    plant_fingerprints(app, orphans=1001, of=4000)
    before = snapshot(app)
    with session_on(database, pooled=pooled) as session:
        planned = plan(ORPHANED_FINGERPRINTS, session, options(pace=pace))
        result = finish(Sweep(ORPHANED_FINGERPRINTS, session, options(pace=pace)))
    assert (result.status, result.affected, result.batches) == (Status.REFUSED, 0, 0)
    for words in ("1,001", "4,000", "public.device_fingerprints", "25%", "--allow-share 0.26"):
        assert words in (result.error or "")
    assert (planned.status, planned.candidates) == (Status.REFUSED, 1001)
    assert result.error == planned.error
    assert "They were made or last changed between" in (result.error or "")
    assert snapshot(app) == before


def test_orphans_that_are_too_young_to_be_due_do_not_count(app: App, database: str) -> None:
    plant_fingerprints(app, orphans=1000, young=2000, of=4000)
    result = sweep(database, ORPHANED_FINGERPRINTS)
    assert (result.status, result.affected) == (Status.SUCCESS, 1000)


@pytest.mark.parametrize(("of", "status"), [(999, Status.SUCCESS), (1000, Status.REFUSED)])
def test_a_table_of_fewer_than_a_thousand_rows_is_exempt(app: App, database: str, of: int, status: Status) -> None:
    plant_fingerprints(app, orphans=of - 1, of=of)
    result = sweep(database, ORPHANED_FINGERPRINTS)
    assert (result.status, result.affected) == (status, of - 1 if status is Status.SUCCESS else 0)


def test_rows_are_counted_and_not_believed_from_the_statistics(app: App, database: str) -> None:
    plant_fingerprints(app, orphans=1001, of=4000)
    app.execute("alter table device_fingerprints set (autovacuum_enabled = off)")
    app.execute("analyze device_fingerprints")
    app.execute("update pg_class set reltuples = 1000000, relpages = 100000 where relname = 'device_fingerprints'")
    assert sweep(database, ORPHANED_FINGERPRINTS).status is Status.REFUSED


@pytest.mark.parametrize(
    ("orphans", "share", "status"),
    [
        (3200, 0.8, Status.SUCCESS),
        (3201, 0.8, Status.REFUSED),
        (4000, 1.0, Status.SUCCESS),
        (4, 0.001, Status.SUCCESS),
        (5, 0.001, Status.REFUSED),
        (1200, 0.3, Status.SUCCESS),
    ],
)
def test_an_operator_sets_another_share_for_one_run(
    app: App, database: str, orphans: int, share: float, status: Status
) -> None:
    plant_fingerprints(app, orphans=orphans, of=4000)
    result = sweep(database, ORPHANED_FINGERPRINTS, max_share=share, pace=LARGE)
    assert (result.status, result.affected) == (status, orphans if status is Status.SUCCESS else 0)


def test_a_limit_on_rows_does_not_get_a_rule_past_the_fuse(app: App, database: str) -> None:
    plant_fingerprints(app, orphans=1001, of=4000)
    assert sweep(database, ORPHANED_FINGERPRINTS, budget=Budget(rows=10)).status is Status.REFUSED


def test_an_empty_parent_is_refused_whatever_the_share(app: App, database: str) -> None:
    plant_fingerprints(app, orphans=10, of=10)
    app.execute("truncate after_hours_sessions cascade")
    assert sweep(database, ORPHANED_FINGERPRINTS, max_share=1.0).status is Status.REFUSED


def test_a_rule_that_takes_old_rows_has_no_fuse(app: App, database: str) -> None:
    alive = rows.session(app)
    app.execute("insert into users (id, provider) select 'one of many ' || i, 'phone' from generate_series(1, 40) i")
    app.execute(
        "insert into after_hours_declines (session_id, user_id, declined_user_id, created_at)"
        " select %s, a.id, b.id, %s from users a, users b",
        [alive, NOW - 8 * DAY],
    )
    result = sweep(database, OLD_DECLINES)
    assert (result.status, result.affected) == (Status.SUCCESS, 41 * 41)


def test_profiles_have_a_fuse_too(app: App, database: str) -> None:
    rows.user(app)
    app.execute(
        "insert into after_hours_profiles (user_id, photo_url, created_at, updated_at)"
        " select 'nobody ' || i, '', %(old)s, %(old)s from generate_series(1, 1000) i",
        {"old": NOW - DAY},
    )
    assert sweep(database, ORPHANED_PROFILES).status is Status.REFUSED


def test_orphans_that_appear_after_the_fuse_was_checked_are_not_taken_beyond_it(app: App, database: str) -> None:
    plant_fingerprints(app, orphans=1000, of=4000)
    with session_on(database) as session:
        swept = Sweep(ORPHANED_FINGERPRINTS, session, options(pace=TINY))
        steps = iter(swept)
        advance(steps, "windows")
        app.execute("update device_fingerprints set session_id = gen_random_uuid(), created_at = %s", [NOW - DAY])
        result = finish(swept, steps)
    assert result.affected <= 1000


@pytest.mark.parametrize("share", [0.1, 0.2, 0.25, 0.3, 0.7, 1 / 3, 0.001, 1.0])
@pytest.mark.parametrize("candidates", [1, 3, 250, 999, 1001, 3_000_000_000])
def test_the_fuse_needs_as_many_rows_as_make_the_share_and_not_one_more(share: float, candidates: int) -> None:
    fuse = Fuse(share)
    needed = fuse.rows_needed(candidates)
    fuse.check(candidates, needed, "a table")
    if needed > 1000:
        with pytest.raises(RefusedError):
            fuse.check(candidates, needed - 1, "a table")
