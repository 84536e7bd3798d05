"""The summary that ends a run, and its picture of the last nights."""

import base64
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from xml.etree import ElementTree

import psycopg
import pytest
from dagster import AssetKey, AssetMaterialization, AssetObservation, DagsterEventType, DagsterInstance, MetadataValue

from cleanup_pipeline.defs import summary
from cleanup_pipeline.defs.nights import NIGHTS, Night, clean_at, first_night, last_nights, picture, spark
from cleanup_pipeline.demo.data import plant
from cleanup_pipeline.rules import OLD_DECLINES, ORPHANED_PROFILES, RULES
from cleanup_pipeline.sweep.result import Result, Status
from cleanup_pipeline_tests.defs.runs import metadata_of, run_job

pytestmark = pytest.mark.in_memory

NOW = datetime.now(UTC)
DECLINES = AssetKey(["after_hours", "declines"])


def told(days_ago: int, rows: int) -> dict[str, Any]:
    return {"rows_affected": rows, "as_of": MetadataValue.timestamp(NOW - timedelta(days=days_ago))}


def report(instance: DagsterInstance, days_ago: int, rows: int, *, good: bool = True) -> None:
    kind = AssetMaterialization if good else AssetObservation
    instance.report_runless_asset_event(kind(DECLINES, metadata=told(days_ago, rows)))


def declines(instance: DagsterInstance, *tonight: Result) -> list[Night]:
    return list(last_nights(instance, NOW, tonight, "this run")["old_declines"])


def test_nights_are_read_from_the_event_log_with_gaps_and_failures(instance: DagsterInstance) -> None:
    report(instance, 4, 40)
    report(instance, 2, 7, good=False)
    report(instance, 1, 3, good=False)
    report(instance, 1, 20)
    nights = declines(instance, Result("old_declines", Status.SUCCESS, 50, remaining=0))
    assert nights[-5:] == [Night(40, True), Night(), Night(7, False), Night(23, True), Night(50, True)]
    assert (len(nights), set(nights[:-5])) == (NIGHTS, {Night()})
    assert spark(nights)[-5:] == "▇·✗▆█"


def test_a_night_counts_for_the_day_that_it_was_meant_for_and_nights_of_long_ago_are_left_out(
    instance: DagsterInstance,
) -> None:
    report(instance, NIGHTS, 9)
    report(instance, NIGHTS - 1, 8)
    assert declines(instance)[0] == Night(8, True)


def test_other_reports_of_the_assets_are_no_nights(instance: DagsterInstance) -> None:
    instance.report_runless_asset_event(AssetMaterialization(DECLINES, metadata={"rows_affected": "many"}))
    instance.report_runless_asset_event(AssetMaterialization(DECLINES))
    instance.report_runless_asset_event(AssetMaterialization(DECLINES, metadata={"rows_affected": float("nan")}))
    assert set(declines(instance)) == {Night()}


@pytest.mark.parametrize("odd", [float("inf"), 1e300, -1e300, 10**400], ids=["inf", "late", "early", "400 digits"])
def test_a_night_whose_as_of_is_no_instant_counts_for_the_day_of_its_report(
    instance: DagsterInstance, odd: float
) -> None:
    metadata = {"rows_affected": 8, "rows_remaining": 0, "as_of": odd}
    instance.report_runless_asset_event(AssetMaterialization(DECLINES, metadata=metadata))
    assert declines(instance)[-1] == Night(8, True)
    assert clean_at(instance, OLD_DECLINES) is None


def test_the_picture_is_an_image_that_a_browser_can_draw_and_names_every_rule() -> None:
    nights = {rule.name: [Night(), Night(0, True), Night(5, False), Night(12_345, True)] for rule in RULES}
    found = re.fullmatch(r"!\[.*\]\(data:image/svg\+xml;base64,(.*)\)", picture(nights, NOW.date()))
    assert found
    svg = base64.b64decode(found[1]).decode()
    ElementTree.fromstring(svg)  # noqa: S314 -- our own
    assert all(rule.name in svg for rule in RULES)
    assert "12,345" in svg


def test_the_run_ends_with_a_table_and_a_picture_on_its_last_event_alone(
    app: psycopg.Connection[Any], database: str, instance: DagsterInstance
) -> None:
    plant(app, 100)
    result = run_job(database, instance)
    preferences = metadata_of(result, "preferences")
    assert [line.split("|")[1:4] for line in preferences["summary"].splitlines()[2:]] == [
        [" expired_sessions ", " 50 ", " 0 "],
        [" old_declines ", " 50 ", " 0 "],
        [" orphaned_fingerprints ", " 20 ", " 0 "],
        [" orphaned_profiles ", " 10 ", " 0 "],
        [" orphaned_preferences ", " 10 ", " 0 "],
    ]
    # Longer ones hide behind a click.
    assert len(preferences["summary"]) < 1000
    assert f"**old_declines** 50 (at most 50)\\\n{'·' * 29}█\n" in preferences["nights"]
    assert preferences["nights"].startswith(
        f"Rows cleaned a night, {first_night(NOW.date())} to {NOW.date()}, by their square roots.\\\n· "
    )
    assert preferences["nights_picture"].startswith("![")
    assert "summary" not in metadata_of(result, "declines")


def test_a_run_of_some_rules_ends_with_a_summary_too(database: str, instance: DagsterInstance) -> None:
    result = run_job(database, instance, op_selection=["close_expired_sessions", "delete_old_declines"])
    assert metadata_of(result, "declines")["summary"].count("success") == 2


def test_a_run_of_which_the_last_rule_is_refused_ends_with_a_summary_too(
    app: psycopg.Connection[Any], database: str, instance: DagsterInstance
) -> None:
    app.execute("drop table after_hours_preferences")
    result = run_job(database, instance)
    (observed,) = [
        entry.get_dagster_event().event_specific_data.asset_observation  # type: ignore[union-attr]  # of that type
        for entry in instance.all_logs(result.run_id, of_type=DagsterEventType.ASSET_OBSERVATION)
    ]
    assert "| orphaned_preferences | 0 | ? | refused |" in str(observed.metadata["summary"].value)


def test_a_rule_that_time_did_not_last_for_is_not_told_as_a_success() -> None:
    result = Result("old_declines", affected=7)
    assert summary.line([result]) == "old_declines: 7 rows (not to its end)"
    assert "| old_declines | 7 | ? | not to its end | ? |" in summary.table([result])


def test_a_rule_whose_step_died_before_it_began_is_told_as_such(
    app: psycopg.Connection[Any], database: str, instance: DagsterInstance
) -> None:
    plant(app, 100)
    config = {"ops": {"delete_orphaned_profiles": {"config": {"grace_minutes": -1}}}}
    result = run_job(database, instance, config=config)
    told = [
        entry.user_message
        for entry in instance.all_logs(result.run_id)
        if entry.user_message.startswith("expired_sessions: 50 rows;")
    ]
    assert told == [
        "expired_sessions: 50 rows; old_declines: 50 rows; orphaned_fingerprints: 20 rows; "
        "orphaned_preferences: 10 rows; orphaned_profiles: never began"
    ]
    assert "| orphaned_profiles | 0 | ? | never began | ? |" in summary.table([], [ORPHANED_PROFILES])


def test_a_summary_of_the_longest_rows_is_still_short_enough_to_be_shown_at_once() -> None:
    results = [Result(rule.name, Status.INTERRUPTED, 1_234_567, 1_234_567, duration_s=12_345.6) for rule in RULES]
    nights = {rule.name: [Night(1_234_567, True)] * NIGHTS for rule in RULES}
    assert max(len(summary.table(results)), len(summary.bars(nights, NOW.date()))) < 1000


def test_a_night_that_did_not_run_has_no_number() -> None:
    told = summary.bars({"old_declines": [Night(7, True), Night()], "expired_sessions": [Night()]}, NOW.date())
    assert "**old_declines** - (at most 7)\\\n█·" in told
    assert "**expired_sessions** - (at most 0)\\\n·" in told


def test_where_the_nights_can_not_be_read_the_table_is_told_all_the_same(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object, **__: object) -> None:
        raise ConnectionError

    monkeypatch.setattr(DagsterInstance, "fetch_materializations", gone)
    found = summary.metadata([Result("old_declines", affected=3)], [], instance, "this run", NOW)
    assert list(found) == ["summary"]
