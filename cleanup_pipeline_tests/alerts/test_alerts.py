"""Alerts from a real instance's storage to a real webhook, at any time of the days."""

from collections.abc import Mapping
from datetime import date, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from dagster import (
    AssetKey,
    AssetMaterialization,
    DagsterEventType,
    DagsterInstance,
    DefaultSensorStatus,
    build_sensor_context,
)
from dagster._core.events import DagsterEvent, StepMaterializationData

from cleanup_pipeline.alerts.alert import KINDS, NEXT_STEPS
from cleanup_pipeline.defs.alerting import Alerted, alert
from cleanup_pipeline.defs.sensors import session_cleanup_alerts
from cleanup_pipeline.demo.data import plant
from cleanup_pipeline.gate import day, tags
from cleanup_pipeline.gate.day import nightly
from cleanup_pipeline.gate.pause import SCHEDULE, SENSOR, begin_pause, end_pause
from cleanup_pipeline.gate.tags import Outcome, outcome_tags
from cleanup_pipeline.rules import RULES_ON
from cleanup_pipeline_tests.alerts.receiver import SECRET, Webhook, webhook
from cleanup_pipeline_tests.databases import everything_in, fresh_database
from cleanup_pipeline_tests.defs.runs import run_job
from cleanup_pipeline_tests.gate.storage import TODAY, add_run, happen, report, today

DAY = timedelta(days=1)
UI = "https://dagster.internal"
ENDS: Mapping[str, str] = {"success": "success", "interrupted": "cancel"}


class Watch:
    """The sensor, tick by tick, at times that a test sets."""

    def __init__(self, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
        self.instance = instance
        self.cursor: str | None = None
        self._monkeypatch = monkeypatch

    def set(self, now: datetime) -> None:
        self._monkeypatch.setattr(day, "utc_now", lambda: now)

    def tick(self, now: datetime) -> Alerted:
        self.set(now)
        alerted = alert(self.instance, self.cursor)
        self.cursor = alerted.cursor
        assert SECRET not in repr(alerted)
        return alerted


@pytest.fixture(autouse=True)
def variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CLEANUP_GATE", "CLEANUP_GATE_DEADLINE", "CLEANUP_GATE_WHEN_LATE", "CLEANUP_NIGHT_ENDS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLEANUP_UI_URL", UI + "/")


@pytest.fixture
def watch(instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch, hook: Webhook) -> Watch:
    """The sensor on `instance`, which tells `hook`; it has looked once, at 03:59, after a good run of yesterday."""
    monkeypatch.setenv("CLEANUP_ALERT_WEBHOOK_URL", hook.url)
    add_night(instance, TODAY - DAY, "success", today("04:05") - DAY)
    watch = Watch(instance, monkeypatch)
    assert watch.tick(today("03:59")).said == "Nothing to tell."
    return watch


def add_night(instance: DagsterInstance, of: date, outcome: Outcome, ended: datetime) -> str:
    """A run of the day `of` that took four minutes."""
    run_id = add_run(instance, tagged={tags.DAY: str(of), tags.TRIGGER: "sensor"})
    happen(instance, run_id, "start", ended - timedelta(minutes=4))
    instance.add_run_tags(run_id, outcome_tags(run_id, outcome))
    happen(instance, run_id, ENDS.get(outcome, "failure"), ended)
    return run_id


def test_a_good_night_is_not_told(watch: Watch, hook: Webhook) -> None:
    report(watch.instance, finished_at=today("03:04").isoformat())
    add_night(watch.instance, TODAY, "success", today("04:05"))
    for hour in ("04:01", "04:06", "06:00", "23:59"):
        assert watch.tick(today(hour)).said == "Nothing to tell."
    assert hook.received == []


def test_a_failed_run_is_told_after_its_last_attempt_and_once(watch: Watch, hook: Webhook) -> None:
    for ended in ("04:00", "04:20"):
        add_night(watch.instance, TODAY, "failed", today(ended))
        assert watch.tick(today(ended)).said == "Nothing to tell."
    last = add_night(watch.instance, TODAY, "failed", today("05:00"))

    alerted = watch.tick(today("05:00:30"))

    event_id = f"run_failed/{TODAY}/{last}"
    assert alerted.said == f"Told: {event_id}."
    [text] = hook.texts
    assert text.startswith(
        f"session_cleanup run_failed: The run of {TODAY} failed, and is not tried again, at 05:00:00 UTC."
    )
    assert f"{UI}/runs/{last} " in text
    assert "Next: cleanup-pipeline doctor (docs/runbook.md, run_failed)." in text
    assert text.endswith(f"Event: {event_id}")
    assert list(alerted.log) == [text]
    assert hook.event_ids == [event_id]
    for later in (today("05:01"), today("05:59"), today("00:00") + DAY):
        assert event_id not in watch.tick(later).said
    assert hook.event_ids.count(event_id) == 1


def test_a_refused_run_is_told_at_once(watch: Watch, hook: Webhook) -> None:
    run_id = add_night(watch.instance, TODAY, "refused", today("04:00:10"))
    watch.tick(today("04:01"))
    assert hook.event_ids == [f"run_refused/{TODAY}/{run_id}"]
    assert "was refused by a safety check" in hook.texts[0]


def test_a_run_that_failed_before_midnight_is_told_after_it(watch: Watch, hook: Webhook) -> None:
    run_id = add_night(watch.instance, TODAY, "failed", today("23:59"))
    watch.tick(today("00:01") + DAY)
    assert f"run_failed/{TODAY}/{run_id}" in hook.event_ids


def test_a_run_that_somebody_repeated_with_success_is_not_told(watch: Watch, hook: Webhook) -> None:
    add_night(watch.instance, TODAY, "refused", today("04:00:10"))
    add_night(watch.instance, TODAY, "success", today("04:00:50"))
    watch.tick(today("04:01"))
    watch.tick(today("04:01") + DAY)
    assert hook.received == []


def test_a_manual_run_that_failed_is_not_told_since_somebody_watches_it(watch: Watch, hook: Webhook) -> None:
    run_id = add_run(watch.instance, events={"start": "01:00", "failure": "01:01"}, tagged={tags.TRIGGER: "manual"})
    watch.instance.add_run_tags(run_id, outcome_tags(run_id, "failed"))
    watch.tick(today("04:01"))
    assert hook.received == []


def test_a_gate_that_is_closed_at_the_deadline_is_told(
    watch: Watch, hook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLEANUP_GATE_DEADLINE", "05:30")
    watch.tick(today("05:29:59"))
    assert hook.received == []
    for hour in ("05:30", "05:31"):
        watch.tick(today(hour))
    assert hook.event_ids == [f"gate_closed/{TODAY}"]
    assert f"No trace of message cleanup for {TODAY}; late since 05:30:00 UTC." in hook.texts[0]


def test_no_good_run_for_26_hours_is_told_and_again_each_day(watch: Watch, hook: Webhook) -> None:
    def told() -> list[str | None]:
        return [event_id for event_id in hook.event_ids if event_id and event_id.startswith("no_good_run/")]

    watch.tick(today("06:04"))
    assert told() == []
    watch.tick(today("06:06"))
    watch.tick(today("06:07"))
    first = f"no_good_run/{TODAY - DAY}T04:05/1"
    assert told() == [first]
    assert f"No good run for 26 hours: the last ended at {TODAY - DAY} 04:05 UTC." in " ".join(hook.texts)
    watch.tick(today("06:04") + DAY)
    watch.tick(today("06:06") + DAY)
    assert told() == [first, first[:-1] + "2"]


def test_without_any_run_26_hours_count_from_the_first_look(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch, hook: Webhook
) -> None:
    monkeypatch.setenv("CLEANUP_ALERT_WEBHOOK_URL", hook.url)
    monkeypatch.setenv("CLEANUP_GATE", "off")
    watch = Watch(instance, monkeypatch)
    watch.tick(today("00:10"))
    watch.tick(today("02:09") + DAY)
    assert hook.received == []
    watch.tick(today("02:10") + DAY)
    assert hook.event_ids == [f"no_good_run/{TODAY}T00:10/1"]


def test_a_manual_run_of_all_rules_is_a_good_run_and_one_of_some_is_not(
    watch: Watch, hook: Webhook, database: str
) -> None:
    report(watch.instance, finished_at=today("03:04").isoformat())
    run_job(database, watch.instance, tags={tags.TRIGGER: "manual"}, op_selection=["delete_old_declines"])
    watch.tick(today("06:06"))
    assert len(hook.received) == 1
    run_job(database, watch.instance, tags={tags.TRIGGER: "manual"})
    # It ended at the real clock's hour of today.
    watch.tick(today("06:06") + timedelta(hours=20))
    assert [event_id for event_id in hook.event_ids if event_id and "no_good_run" in event_id] == hook.event_ids[:1]


def test_rows_that_stay_due_for_two_nights_are_told(watch: Watch, hook: Webhook) -> None:
    stays_due(watch.instance, TODAY - DAY, {"old_declines": 7, "expired_sessions": 3})
    stays_due(watch.instance, TODAY, {"old_declines": 9, "expired_sessions": 0, "orphaned_profiles": 5})
    watch.tick(today("04:04"))
    assert hook.received == []
    add_night(watch.instance, TODAY, "success", today("04:05"))
    watch.tick(today("04:06"))
    watch.tick(today("04:07"))
    assert hook.event_ids == [f"rows_stay_due/{TODAY}"]
    assert f"Rows stay due for two nights: 9 of old_declines after the run of {TODAY}." in hook.texts[0]
    assert "Next: cleanup-pipeline plan --rule old_declines (" in hook.texts[0]


def stays_due(instance: DagsterInstance, of: date, rows: Mapping[str, int]) -> None:
    """Materializations of a run of that day, with rows that remain."""
    run_id = add_run(instance, tagged={tags.DAY: str(of)})
    for rule in RULES_ON:
        if rule.name not in rows:
            continue
        made = AssetMaterialization(AssetKey(rule.asset), metadata={"rows_remaining": rows[rule.name]})
        event = DagsterEvent(
            event_type_value=DagsterEventType.ASSET_MATERIALIZATION.value,
            job_name="session_cleanup",
            step_key=rule.op,
            event_specific_data=StepMaterializationData(made),
        )
        instance.report_dagster_event(event, run_id, timestamp=(nightly(of) + timedelta(minutes=1)).timestamp())


def test_a_pause_of_more_than_a_day_is_told_daily_until_it_ends(watch: Watch, hook: Webhook) -> None:
    report(watch.instance, finished_at=today("03:04").isoformat())
    add_night(watch.instance, TODAY, "success", today("04:05"))
    begin_pause(watch.instance, today("09:00"), "the disk is moved")
    said = f"Paused since {TODAY} 09:00 UTC: the disk is moved."

    assert watch.tick(today("23:00")).said == said
    told = f"paused/{TODAY}T09:00"
    for days, last in ((1, f"{told}/1"), (2, f"{told}/2")):
        watch.tick(today("08:59") + days * DAY)
        assert last not in hook.event_ids
        watch.tick(today("09:00") + days * DAY)
        assert hook.event_ids.count(last) == 1
    assert f"Nothing is cleaned by itself. {said}" in " ".join(hook.texts)
    end_pause(watch.instance, today("09:01") + 2 * DAY)
    watch.tick(today("09:01") + 3 * DAY)
    assert f"{told}/3" not in hook.event_ids


def test_what_was_switched_off_by_hand_is_a_pause_from_when_it_was_first_seen(watch: Watch, hook: Webhook) -> None:
    begin_pause(watch.instance, today("09:00"), "to be forgotten")
    watch.instance.daemon_cursor_storage.set_cursor_values({"cleanup/pause": ""})
    said = f"Paused since {TODAY} 09:10 UTC at least: {SCHEDULE} and {SENSOR} switched off by hand."
    assert watch.tick(today("09:10")).said.startswith(said)
    watch.tick(today("09:10") + DAY)
    assert f"paused/{TODAY}T09:10/1" in hook.event_ids


def test_what_was_not_acknowledged_is_told_again_also_when_it_is_over(watch: Watch, hook: Webhook) -> None:
    hook.status = 500
    event_id = f"gate_closed/{TODAY}"
    said = watch.tick(today("06:00")).said
    assert said == f"To be told again, since the webhook answered 500: {event_id}."
    report(watch.instance, finished_at=today("06:00:10").isoformat())
    add_night(watch.instance, TODAY, "success", today("06:00:50"))
    hook.status = 200
    assert watch.tick(today("06:01")).said == f"Told: {event_id}."
    assert watch.tick(today("06:02")).said == "Nothing to tell."
    assert hook.event_ids == [event_id, event_id]
    assert hook.texts[0] == hook.texts[1]


def test_a_webhook_that_is_gone_or_hangs_leaves_the_tick_alone(
    watch: Watch, hook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cleanup_pipeline.alerts.telling.WITHIN_S", 0.3)
    add_night(watch.instance, TODAY, "refused", today("04:00:10"))
    hook.hangs = True
    assert "did not answer" in watch.tick(today("06:06")).said
    assert len(hook.received) == 1  # the others are not tried where it hangs
    with webhook() as gone:
        monkeypatch.setenv("CLEANUP_ALERT_WEBHOOK_URL", gone.url)
    assert "can't be reached" in watch.tick(today("06:07")).said
    with webhook() as mended:
        monkeypatch.setenv("CLEANUP_ALERT_WEBHOOK_URL", mended.url)
        watch.tick(today("06:08"))
        told = [event_id.partition("/")[0] for event_id in mended.event_ids if event_id]
        assert sorted(told) == ["no_good_run", "run_refused"]


def test_without_a_webhook_the_log_is_told_once(watch: Watch, hook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLEANUP_ALERT_WEBHOOK_URL")
    [line] = watch.tick(today("06:00")).log
    assert f"Event: gate_closed/{TODAY}" in line
    assert watch.tick(today("06:01")).log == ()
    assert hook.received == []


def test_a_storage_that_is_down_is_told_in_the_tick(
    server_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fresh_database(server_url) as url:
        (tmp_path / "dagster.yaml").write_text(f'{{"storage": {{"postgres": {{"postgres_url": "{url}"}}}}}}')
        instance = DagsterInstance.from_config(str(tmp_path))
    try:
        said = Watch(instance, monkeypatch).tick(today("04:00")).said
    finally:
        instance.dispose()
    assert said.startswith("Dagster's storage can't be read: ")
    assert len(said.splitlines()) == 1


NO_INSTANT = '{"watched_since": "0001-01-01T00:00:00+14:00", "pending": {}, "acknowledged": []}'


@pytest.mark.parametrize("cursor", [None, "", "nonsense", "[]", "{}", '{"watched_since": 3}', NO_INSTANT])
def test_any_cursor_will_do(instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch, cursor: str | None) -> None:
    watch = Watch(instance, monkeypatch)
    watch.cursor = cursor
    assert watch.tick(today("03:00")).said == "Nothing to tell."


def test_every_night_that_a_rule_is_refused_there_is_an_alert_and_the_others_are_cleaned(
    database: str, watch: Watch, hook: Webhook
) -> None:
    """C13: the first rule's table is missing, and the last one's key."""
    run_ids = []
    with psycopg.connect(database, autocommit=True) as app:
        plant(app, 200)
        app.execute("alter table after_hours_sessions rename to elsewhere")
        app.execute("alter table after_hours_preferences rename column user_id to owner")
    for night in range(3):
        watch.set(today("04:00") + night * DAY)
        run_ids.append(run_job(database, watch.instance, tags={tags.DAY: str(TODAY + night * DAY)}).run_id)
        watch.tick(today("04:10") + night * DAY)
    refused = [text for text in hook.texts if "run_refused:" in text]
    assert len(refused) == 3
    for run_id, text in zip(run_ids, refused, strict=True):
        assert f"{UI}/runs/{run_id} " in text
        assert "expired_sessions was refused: " in text
        assert "Next: cleanup-pipeline plan --rule expired_sessions --rule " in text
    with psycopg.connect(database) as app:
        assert app.execute("select count(*) from after_hours_declines").fetchone() == (100,)


def test_no_alert_holds_personal_data(database: str, watch: Watch, hook: Webhook) -> None:
    with psycopg.connect(database, autocommit=True) as app:
        plant(app, 40)
        app.execute(
            """
            create function tell() returns trigger language plpgsql as $$
                begin raise exception 'canary %', old using detail = old::text; end $$;
            create trigger tell before delete on after_hours_declines for each row execute function tell();
            """
        )
        users = [row[0] for row in app.execute("select user_id from after_hours_declines")]
    for _ in range(3):
        watch.set(today("04:00"))
        run_job(database, watch.instance, tags={tags.DAY: str(TODAY)})
    watch.tick(today("23:59") + timedelta(hours=1))
    [text] = [text for text in hook.texts if "run_failed" in text]
    assert "old_declines failed: " in text
    assert "canary" not in text
    assert not any(user in text for user in users)


def test_the_webhooks_address_stands_in_no_table_and_no_log(
    watch: Watch, dagster_home: Path, hook: Webhook, capfd: pytest.CaptureFixture[str]
) -> None:
    hook.status = 500
    watch.set(today("06:00"))
    context = build_sensor_context(instance=watch.instance)
    data = session_cleanup_alerts.evaluate_tick(context)
    assert data.skip_message is not None
    assert "the webhook answered 500" in data.skip_message
    captured = capfd.readouterr()
    assert f"Event: gate_closed/{TODAY}" in captured.err
    assert SECRET not in repr(data) + captured.out + captured.err
    url = (dagster_home / "dagster.yaml").read_text().split('"postgres_url": "')[1].split('"')[0]
    assert SECRET not in everything_in(url)


def test_the_sensor_is_on_as_soon_as_the_daemon_runs() -> None:
    assert session_cleanup_alerts.name == "session_cleanup_alerts"
    assert session_cleanup_alerts.default_status is DefaultSensorStatus.RUNNING
    assert session_cleanup_alerts.minimum_interval_seconds == 60


def test_every_kind_has_a_next_step() -> None:
    assert set(NEXT_STEPS) == set(KINDS)
