"""Each rule at its boundaries: what is due, to the microsecond, and what never is."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pytest
from psycopg import Connection, sql

from cleanup_pipeline.demo.data import plant
from cleanup_pipeline.demo.schema import TABLES
from cleanup_pipeline.rules import (
    EXPIRED_SESSIONS,
    OLD_DECLINES,
    ORPHANED_FINGERPRINTS,
    ORPHANED_PREFERENCES,
    ORPHANED_PROFILES,
    RULES,
    Rule,
)
from cleanup_pipeline.sweep.pace import Pace
from cleanup_pipeline.sweep.plan import plan
from cleanup_pipeline.sweep.result import Status
from cleanup_pipeline.sweep.sweep import Sweep
from cleanup_pipeline_tests.databases import name_of
from cleanup_pipeline_tests.oracle import expected, snapshot
from cleanup_pipeline_tests.servers import on_older_servers
from cleanup_pipeline_tests.sweep import rows
from cleanup_pipeline_tests.sweep.rows import Moment
from cleanup_pipeline_tests.sweep.steps import (
    LARGE,
    NOW,
    TINY,
    UNRESTED,
    advance,
    connected,
    few_rows_a_page,
    finish,
    options,
    session_on,
    sweep,
    sweep_all,
)

MICROSECOND = timedelta(microseconds=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)

App = Connection[Any]


@dataclass(frozen=True)
class Dated:
    """How to make a row of a rule's table that is due but for its date, and how to see whether it was cleaned."""

    rule: Rule
    table: str
    column: str
    age: timedelta
    make: Callable[[App, Moment], object]
    cleaned: Callable[[App, object], bool]


def gone_from(table: str, key: str) -> Callable[[App, object], bool]:
    return lambda app, identity: not rows.exists(app, table, **{key: identity})


def is_closed(app: App, identity: object) -> bool:
    assert isinstance(identity, UUID)
    return rows.ended_at(app, identity) is not None


def nobodys_profile(app: App, moment: Moment) -> object:
    return rows.profile(app, f"nobody {uuid4()}", moment)


def nobodys_preferences(app: App, moment: Moment) -> object:
    return rows.preferences(app, f"nobody {uuid4()}", moment)


DATED = (
    Dated(EXPIRED_SESSIONS, "after_hours_sessions", "expires_at", timedelta(0), rows.session, is_closed),
    Dated(
        OLD_DECLINES,
        "after_hours_declines",
        "created_at",
        7 * DAY,
        rows.decline,
        gone_from("after_hours_declines", "id"),
    ),
    Dated(
        ORPHANED_FINGERPRINTS,
        "device_fingerprints",
        "created_at",
        HOUR,
        rows.orphaned_fingerprint,
        gone_from("device_fingerprints", "id"),
    ),
    Dated(
        ORPHANED_PROFILES,
        "after_hours_profiles",
        "created_at",
        HOUR,
        nobodys_profile,
        gone_from("after_hours_profiles", "user_id"),
    ),
    Dated(
        ORPHANED_PREFERENCES,
        "after_hours_preferences",
        "created_at",
        HOUR,
        nobodys_preferences,
        gone_from("after_hours_preferences", "user_id"),
    ),
)
each_rule = pytest.mark.parametrize("dated", DATED, ids=lambda dated: str(dated.rule.name))
each_pace = pytest.mark.parametrize("pace", [TINY, LARGE], ids=lambda pace: str(pace.name))


@pytest.fixture
def parents(app: App) -> None:
    """An orphan rule refuses to judge by an empty parent."""
    rows.session(app)


# --- When a row is due.


def test_a_rule_can_be_a_member_of_a_set() -> None:
    assert {*RULES, *RULES} == set(RULES)


@each_rule
@pytest.mark.parametrize(
    ("beside", "cleaned"),
    [
        pytest.param(-MICROSECOND, True, id="a_microsecond_past_the_cutoff"),
        pytest.param(timedelta(0), False, id="exactly_at_the_cutoff"),
        pytest.param(MICROSECOND, False, id="a_microsecond_before_the_cutoff"),
    ],
)
@pytest.mark.usefixtures("parents")
def test_a_row_is_due_once_it_is_past_the_cutoff(
    app: App, database: str, dated: Dated, beside: timedelta, cleaned: bool
) -> None:
    row = dated.make(app, NOW - dated.age + beside)
    want = expected(app, NOW)
    result = sweep(database, dated.rule)
    assert (result.status, result.affected, result.remaining) == (Status.SUCCESS, int(cleaned), 0)
    assert dated.cleaned(app, row) is cleaned
    assert snapshot(app) == want


@each_rule
@pytest.mark.usefixtures("parents")
def test_extreme_dates_are_judged_like_any_other(app: App, database: str, dated: Dated) -> None:
    due = [
        dated.make(app, moment) for moment in ("-infinity", "4713-01-01 00:00:00+00 BC", "0044-03-15 12:00:00+00 BC")
    ]
    kept = [
        dated.make(app, moment) for moment in (NOW + DAY, "9999-12-31", "294276-12-31 23:59:59.999999+00", "infinity")
    ]
    want = expected(app, NOW)
    with session_on(database) as session:
        planned = plan(dated.rule, session, options())
        result = finish(Sweep(dated.rule, session, options()))
    assert (planned.status, planned.candidates, planned.oldest) == (Status.SUCCESS, len(due), "-infinity")
    assert (result.status, result.affected, result.remaining) == (Status.SUCCESS, len(due), 0)
    assert [dated.cleaned(app, row) for row in due + kept] == [True] * len(due) + [False] * len(kept)
    assert snapshot(app) == want


def test_the_plan_shows_the_oldest_of_dates_before_and_after_christ(app: App, database: str) -> None:
    for moment in (NOW - 30 * DAY, "0044-03-15 12:00:00+00 BC", "0300-01-01 00:00:00+00 BC", "0300-01-01 00:00:00+00"):
        rows.decline(app, moment)
    with session_on(database) as session:
        planned = plan(OLD_DECLINES, session, options(pace=TINY))
    assert (planned.candidates, planned.oldest) == (4, "0300-01-01 00:00:00+00 BC")


@each_rule
@pytest.mark.usefixtures("parents")
def test_a_row_without_a_date_is_never_due_and_the_plan_tells_it(app: App, database: str, dated: Dated) -> None:
    for column in ("created_at", "updated_at"):
        if column == "created_at" or dated.rule in (ORPHANED_PROFILES, ORPHANED_PREFERENCES):
            app.execute(
                sql.SQL("alter table {} alter {} drop not null").format(
                    sql.Identifier(dated.table), sql.Identifier(column)
                )
            )
    if dated.rule is EXPIRED_SESSIONS:
        app.execute("alter table after_hours_sessions alter expires_at drop not null")
    undated = [dated.make(app, None), dated.make(app, None)]
    due = dated.make(app, NOW - 30 * DAY)
    want = expected(app, NOW)
    with session_on(database) as session:
        planned = plan(dated.rule, session, options())
        result = finish(Sweep(dated.rule, session, options()))
    assert (planned.candidates, planned.undated) == (1, 0 if dated.rule is EXPIRED_SESSIONS else len(undated))
    assert (result.status, result.affected) == (Status.SUCCESS, 1)
    assert [dated.cleaned(app, row) for row in (due, *undated)] == [True, False, False]
    assert snapshot(app) == want


# --- Sessions.


def test_a_session_is_closed_at_its_own_expiry_and_kept(app: App, database: str) -> None:
    session = rows.session(app, NOW - timedelta(days=3, microseconds=7))
    sweep(database, EXPIRED_SESSIONS)
    assert rows.ended_at(app, session) == "2026-11-21 03:59:59.999993+00"


def test_a_session_that_has_ended_keeps_its_end(app: App, database: str) -> None:
    ended = rows.session(app, NOW - DAY, NOW - 2 * DAY)
    ended_late = rows.session(app, NOW - DAY, NOW)
    before = snapshot(app)
    assert sweep(database, EXPIRED_SESSIONS).affected == 0
    assert snapshot(app) == before
    assert rows.ended_at(app, ended) == "2026-11-22 04:00:00+00"
    assert rows.ended_at(app, ended_late) == "2026-11-24 04:00:00+00"


def test_sessions_are_closed_the_same_without_the_index_that_leads_to_them(app: App, database: str) -> None:
    plant(app, 300, NOW)
    app.execute("drop index after_hours_sessions_active_expiry")
    want = expected(app, NOW)
    result = sweep(database, EXPIRED_SESSIONS)
    assert result.affected == 150
    assert result.access is not None
    assert result.access.startswith("block ranges")
    sweep_all(database)
    assert snapshot(app) == want


def test_a_few_expired_sessions_are_reached_by_the_index(app: App, database: str) -> None:
    plant(app, 300, NOW - 60 * DAY)
    sweep(database, EXPIRED_SESSIONS, as_of=NOW)
    few_rows_a_page(app, "after_hours_sessions")
    app.execute("vacuum full after_hours_sessions")
    due = [rows.session(app, NOW - HOUR) for _ in range(3)]
    want = expected(app, NOW)
    result = sweep(database, EXPIRED_SESSIONS)
    assert result.access is not None
    assert result.access.startswith("index after_hours_sessions_active_expiry")
    assert (result.affected, result.remaining) == (3, 0)
    assert all(is_closed(app, session) for session in due)
    assert snapshot(app).rows["after_hours_sessions"] == want.rows["after_hours_sessions"]


# --- Declines.


def test_the_retention_can_be_another_number_of_days(app: App, database: str) -> None:
    for days in (1, 7, 8, 30, 31):
        rows.decline(app, NOW - days * DAY - MICROSECOND)
    want = expected(app, NOW, retention_days=30)
    result = sweep(database, OLD_DECLINES, age=timedelta(days=30))
    assert (result.affected, result.remaining) == (2, 0)
    assert snapshot(app) == want


def test_the_longest_retention_keeps_all_but_the_very_old(app: App, database: str) -> None:
    rows.decline(app, NOW - 36499 * DAY)
    rows.decline(app, NOW - 36501 * DAY)
    assert sweep(database, OLD_DECLINES, age=timedelta(days=36500)).affected == 1


def test_a_repeated_decline_is_judged_by_its_first_time(app: App, database: str) -> None:
    repeated = rows.decline(app, NOW - 8 * DAY)
    app.execute("update after_hours_declines set decline_count = 5, first_declined_at = %s", [NOW])
    assert sweep(database, OLD_DECLINES).affected == 1
    assert not rows.exists(app, "after_hours_declines", id=repeated)


# --- Orphans.


@pytest.mark.usefixtures("parents")
def test_a_fingerprint_without_a_session_stays(app: App, database: str) -> None:
    nameless = rows.fingerprint(app, None, NOW - 300 * DAY)
    orphan = rows.orphaned_fingerprint(app)
    assert sweep(database, ORPHANED_FINGERPRINTS).affected == 1
    assert rows.exists(app, "device_fingerprints", id=nameless)
    assert not rows.exists(app, "device_fingerprints", id=orphan)


def test_a_fingerprint_of_an_ended_session_stays(app: App, database: str) -> None:
    fingerprint = rows.fingerprint(app, rows.session(app, NOW - 300 * DAY, NOW - 300 * DAY), NOW - 300 * DAY)
    assert sweep(database, ORPHANED_FINGERPRINTS).affected == 0
    assert rows.exists(app, "device_fingerprints", id=fingerprint)


@pytest.mark.parametrize("dated", DATED[3:], ids=lambda dated: str(dated.rule.name))
def test_an_old_orphan_that_was_changed_within_the_grace_stays(app: App, database: str, dated: Dated) -> None:
    rows.user(app)
    make = rows.profile if dated.rule is ORPHANED_PROFILES else rows.preferences
    changed = make(app, "nobody", NOW - 300 * DAY, NOW - HOUR)
    changed_long_ago = make(app, "no one", NOW - 300 * DAY, NOW - HOUR - MICROSECOND)
    # Clocks that differ may date a change before the creation: the later of both counts.
    created_late = make(app, "no body", NOW - HOUR, NOW - 300 * DAY)
    want = expected(app, NOW)
    assert sweep(database, dated.rule).affected == 1
    assert [dated.cleaned(app, row) for row in (changed, changed_long_ago, created_late)] == [False, True, False]
    assert snapshot(app) == want


@pytest.mark.usefixtures("parents")
def test_where_fingerprints_have_an_updated_at_it_counts_too_unless_it_is_null(app: App, database: str) -> None:
    app.execute("alter table device_fingerprints add updated_at timestamptz")
    changed = rows.orphaned_fingerprint(app, NOW - DAY, updated_at=NOW - timedelta(minutes=59))
    unchanged = rows.orphaned_fingerprint(app, NOW - DAY, updated_at=None)
    want = expected(app, NOW)
    assert sweep(database, ORPHANED_FINGERPRINTS).affected == 1
    assert rows.exists(app, "device_fingerprints", id=changed)
    assert not rows.exists(app, "device_fingerprints", id=unchanged)
    assert snapshot(app) == want


def test_user_ids_are_compared_exactly(app: App, database: str) -> None:
    rows.user(app, "Anna")
    due = [rows.profile(app, name, NOW - DAY) for name in ("anna", "Anna ", "Änna", "An'na\\", "")]
    kept = rows.profile(app, "Anna", NOW - DAY)
    want = expected(app, NOW)
    assert sweep(database, ORPHANED_PROFILES).affected == len(due)
    assert rows.exists(app, "after_hours_profiles", user_id=kept)
    assert snapshot(app) == want


# --- Zones and clocks.


@pytest.fixture(
    params=[
        ("Asia/Kathmandu", "German, DMY", "iso_8601"),
        ("America/New_York", "SQL, MDY", "sql_standard"),
        ("posix/Etc/GMT+12", "Postgres, YMD", "postgres_verbose"),
    ],
    ids=lambda settings: str(settings[0]),
)
def elsewhere(request: pytest.FixtureRequest, app: App, database: str) -> None:
    """A database whose sessions begin with the settings of another part of the world."""
    for name, value in zip(("TimeZone", "DateStyle", "IntervalStyle"), request.param, strict=True):
        app.execute(
            sql.SQL("alter database {} set {} = {}").format(
                sql.Identifier(name_of(database)), sql.SQL(name), sql.Literal(value)
            )
        )


@pytest.mark.usefixtures("elsewhere", "parents")
def test_the_databases_own_zone_and_date_style_change_nothing(app: App, database: str) -> None:
    for dated in DATED:
        for beside in (-DAY, -HOUR, -MICROSECOND, timedelta(0), HOUR, DAY):
            dated.make(app, NOW - dated.age + beside)
    want = expected(app, NOW)
    results = sweep_all(database)
    assert [result.affected for result in results.values()] == [3] * 5
    assert snapshot(app) == want


@pytest.mark.parametrize(
    "zone",
    [UTC, timezone(timedelta(hours=5, minutes=45)), ZoneInfo("America/Los_Angeles"), ZoneInfo("Europe/Berlin")],
    ids=str,
)
@pytest.mark.usefixtures("parents")
def test_an_as_of_in_another_zone_is_the_same_instant(app: App, database: str, zone: Any) -> None:
    # Within the seven days and the hour before, clocks were set back there.
    as_of = (
        datetime(2026, 11, 1, 9, 30, tzinfo=UTC) if "Los" in str(zone) else datetime(2026, 10, 25, 1, 30, tzinfo=UTC)
    )
    for dated in DATED:
        for beside in (-HOUR, -MICROSECOND, timedelta(0), HOUR):
            dated.make(app, as_of - dated.age + beside)
    want = expected(app, as_of)
    results = sweep_all(database, as_of=as_of.astimezone(zone))
    assert {name: result.affected for name, result in results.items()} == dict.fromkeys(results, 2)
    assert snapshot(app) == want


# --- Sizes, windows and their edges.


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule.name))
def test_empty_tables_have_nothing_to_clean(database: str, app: App, rule: Rule) -> None:
    before = snapshot(app)
    result = sweep(database, rule)
    assert (result.status, result.affected, result.remaining, result.error) == (Status.SUCCESS, 0, 0, None)
    assert result.longest_batch_ms is not None
    assert result.duration_s is not None
    assert result.rows_per_second == 0
    assert snapshot(app) == before


@each_rule
@pytest.mark.usefixtures("parents")
def test_a_single_row_is_cleaned(app: App, database: str, dated: Dated) -> None:
    row = dated.make(app, NOW - 30 * DAY)
    result = sweep(database, dated.rule)
    assert (result.status, result.affected, result.remaining, result.batches) == (Status.SUCCESS, 1, 0, 1)
    assert dated.cleaned(app, row)


@each_pace
def test_rows_at_the_edges_of_windows_are_cleaned_once_and_their_neighbours_kept(
    app: App, database: str, pace: Pace
) -> None:
    few_rows_a_page(app, *TABLES)
    planted = plant(app, 400, NOW)
    want = expected(app, NOW)
    results = sweep_all(database, pace=pace)
    assert {name: (result.affected, result.remaining) for name, result in results.items()} == {
        name: (due, 0) for name, due in planted.due.items()
    }
    if pace is TINY:
        assert results["old_declines"].batches > 30
        assert results["orphaned_fingerprints"].batches > 5
    assert snapshot(app) == want


@each_pace
def test_pages_that_are_all_due_all_kept_or_empty_are_walked_alike(app: App, database: str, pace: Pace) -> None:
    few_rows_a_page(app, "after_hours_declines")
    for stretch in range(6):
        for _ in range(20):
            rows.decline(app, NOW - (8 * DAY if stretch % 2 else DAY))
    app.execute("delete from after_hours_declines where ctid >= '(4,0)' and ctid < '(12,0)'")
    app.execute("vacuum after_hours_declines")
    want = expected(app, NOW)
    result = sweep(database, OLD_DECLINES, pace=pace)
    assert (result.status, result.remaining) == (Status.SUCCESS, 0)
    assert snapshot(app) == want


@each_pace
def test_running_twice_changes_nothing_the_second_time(app: App, database: str, pace: Pace) -> None:
    plant(app, 200, NOW)
    sweep_all(database, pace=pace)
    addresses = "select tableoid::regclass, ctid, xmin from {}"
    before = snapshot(app), [app.execute(addresses.format(table).encode()).fetchall() for table in TABLES]
    results = sweep_all(database, pace=pace)
    assert [(result.status, result.affected, result.remaining) for result in results.values()] == [
        (Status.SUCCESS, 0, 0)
    ] * 5
    assert (snapshot(app), [app.execute(addresses.format(table).encode()).fetchall() for table in TABLES]) == before


@on_older_servers
@each_pace
def test_every_rule_does_the_same_on_older_servers(app: App, database: str, pace: Pace) -> None:
    planted = plant(app, 500, NOW)
    want = expected(app, NOW)
    results = sweep_all(database, pace=pace)
    assert {name: (result.status, result.affected, result.remaining) for name, result in results.items()} == {
        name: (Status.SUCCESS, due, 0) for name, due in planted.due.items()
    }
    assert snapshot(app) == want


def test_users_matches_and_messages_never_change(guarded_database: str) -> None:
    with session_on(guarded_database) as session, connected(guarded_database) as chat:
        night = rows.session(chat, NOW - 400 * DAY)
        rows.match(chat, night)
        rows.decline(chat, NOW - 400 * DAY, during=night)
        before, want = snapshot(chat), expected(chat, NOW)
        assert [finish(Sweep(rule, session, options())).affected for rule in RULES] == [1, 1, 0, 0, 0]
        after = snapshot(chat)
    assert after == want
    for table in ("users", "after_hours_matches", "after_hours_messages"):
        assert after.rows[table] == before.rows[table]
        assert after.rows[table].total() > 0


# --- Tables that grow while they are swept.


def windows(steps: Iterator[Any], app: App, grow: Callable[[App], object], most: int) -> None:
    """Carry on to the end, and let a table grow after each of the first `most` windows."""
    for progress in steps:
        if progress.stage == "windows" and most > 0:
            grow(app)
            most -= 1


@each_rule
@pytest.mark.parametrize("age", [timedelta(0), 30 * DAY], ids=["rows_that_are_not_due", "rows_that_are_due"])
@pytest.mark.usefixtures("parents")
def test_a_table_that_grows_during_the_sweep(app: App, database: str, dated: Dated, age: timedelta) -> None:
    few_rows_a_page(app, dated.table)
    for index in range(90):
        dated.make(app, NOW - (30 * DAY if index % 3 else timedelta(0)))
    with session_on(database) as session:
        swept = Sweep(dated.rule, session, options(pace=TINY))
        windows(iter(swept), app, lambda app: [dated.make(app, NOW - age) for _ in range(5)], most=4)
    left = snapshot(app).only_here(expected(app, NOW))[dated.table]
    assert swept.result.status is Status.SUCCESS
    assert swept.result.affected >= 60
    if dated.rule.orphan_of is None:
        assert swept.result.remaining == left
    if age == timedelta(0):
        assert (swept.result.affected, left) == (60, 0)


def test_declines_that_become_due_behind_the_walk_are_taken_by_another_pass(app: App, database: str) -> None:
    few_rows_a_page(app, "after_hours_declines")
    declines = [rows.decline(app, NOW - (8 * DAY if index % 2 else DAY)) for index in range(80)]
    with session_on(database) as session:
        swept = Sweep(OLD_DECLINES, session, options(pace=TINY))
        steps = iter(swept)
        advance(steps, "windows")
        app.execute("update after_hours_declines set created_at = %s where id = %s", [NOW - 9 * DAY, declines[0]])
        finish(swept, steps)
    assert (swept.result.affected, swept.result.remaining) == (41, 0)
    assert not rows.exists(app, "after_hours_declines", id=declines[0])


def test_an_app_that_keeps_adding_due_rows_does_not_keep_the_sweep_and_they_are_told(app: App, database: str) -> None:
    few_rows_a_page(app, "after_hours_declines")
    for _ in range(40):
        rows.decline(app, NOW - 8 * DAY)
    with session_on(database) as session:
        swept = Sweep(OLD_DECLINES, session, options(pace=TINY))
        for progress in swept:
            if progress.stage != "windows":
                continue
            app.execute(
                "insert into after_hours_declines (session_id, user_id, declined_user_id, created_at)"
                " select id, user_id, user_id, %s from after_hours_sessions order by random() limit 1"
                " on conflict do nothing",
                [NOW - 8 * DAY],
            )
    assert swept.result.status is Status.SUCCESS
    assert swept.result.remaining == snapshot(app).only_here(expected(app, NOW))["after_hours_declines"]


def test_the_pace_changes_how_long_a_sweep_rests_and_not_what_it_does(app: App, database: str) -> None:
    planted = plant(app, 300, NOW)
    want = expected(app, NOW)
    rested = Pace("rested", UNRESTED.window_s, UNRESTED.slice_s, 1.0, UNRESTED.snapshot_s)
    assert {name: result.affected for name, result in sweep_all(database, pace=rested).items()} == planted.due
    assert snapshot(app) == want
