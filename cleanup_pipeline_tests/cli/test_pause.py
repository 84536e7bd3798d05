"""`pause` and `resume` on a real instance, with the daemon's own rows and without."""

from collections.abc import Callable
from pathlib import Path

import pytest
from dagster import DagsterInstance
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    ScheduleInstigatorData,
    SensorInstigatorData,
)

from cleanup_pipeline.definitions import defs
from cleanup_pipeline.gate.pause import LOCATION, SCHEDULE, SENSOR
from cleanup_pipeline_tests.cli.conftest import Ended

Cli = Callable[..., Ended]


@pytest.fixture
def home(dagster_home: Path) -> str:
    return str(dagster_home)


def states(instance: DagsterInstance) -> dict[str, str]:
    return {state.name: state.status.value for state in instance.all_instigator_state()}


def as_the_daemon_leaves_them(instance: DagsterInstance, location: str) -> None:
    origin = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin(location), "__repository__")
    declared = InstigatorStatus.DECLARED_IN_CODE
    schedule = ScheduleInstigatorData("0 4 * * *", 1.0, 2.0)
    sensor = SensorInstigatorData(min_interval=30, cursor="a cursor", last_run_key="a key")
    for name, kind, data in (
        (SCHEDULE, InstigatorType.SCHEDULE, schedule),
        (SENSOR, InstigatorType.SENSOR, sensor),
        ("session_cleanup_alerts", InstigatorType.SENSOR, SensorInstigatorData(min_interval=60)),
    ):
        instance.add_instigator_state(InstigatorState(origin.get_instigator_origin(name), kind, declared, data))


def test_pause_is_for_the_schedule_and_the_sensor_that_there_are() -> None:
    assert defs.resolve_schedule_def(SCHEDULE).name == "session_cleanup_daily"
    assert defs.resolve_sensor_def(SENSOR).name == "session_cleanup_gate"


def test_both_go_off_and_on_together_and_status_says_since_when_and_why(
    cli: Cli, home: str, instance: DagsterInstance
) -> None:
    assert cli("status", "--json", DAGSTER_HOME=home).json["paused"] is None
    text = cli("status", DAGSTER_HOME=home).out
    assert "\nNot paused. Next tick: " in text
    assert "\nNo runs.\n" in text

    paused = cli("pause", "--reason", "the disk\nis moved", DAGSTER_HOME=home)

    assert (paused.code, paused.err) == (0, "")
    assert states(instance) == {SCHEDULE: "STOPPED", SENSOR: "STOPPED"}
    status = cli("status", "--json", DAGSTER_HOME=home).json
    assert status["next_tick"] is None
    told = status["paused"]
    assert told == {"since": told["since"], "reason": "the disk is moved", "off": [SCHEDULE, SENSOR]}
    assert told["since"].endswith("+00:00")
    sentence = f"Paused since {told['since'][:16].replace('T', ' ')} UTC: the disk is moved."
    assert paused.out.startswith(sentence)
    assert sentence in cli("status", DAGSTER_HOME=home).out

    resumed = cli("resume", "--json", DAGSTER_HOME=home)

    assert (resumed.code, resumed.json) == (0, {"paused": None})
    assert states(instance) == {SCHEDULE: "RUNNING", SENSOR: "RUNNING"}
    assert cli("status", "--json", DAGSTER_HOME=home).json["paused"] is None


@pytest.mark.parametrize("location", [LOCATION, "another-name"])
def test_what_the_daemon_has_written_is_kept_and_no_missed_tick_is_made_up(
    cli: Cli, home: str, instance: DagsterInstance, location: str
) -> None:
    as_the_daemon_leaves_them(instance, location)
    cli("pause", "--reason", "why", DAGSTER_HOME=home)
    assert states(instance) == {
        SCHEDULE: "STOPPED",
        SENSOR: "STOPPED",
        "session_cleanup_alerts": "DECLARED_IN_CODE",  # alerts come while the rest is paused
    }
    cli("resume", DAGSTER_HOME=home)
    data = {state.name: state.instigator_data for state in instance.all_instigator_state()}
    sensor, schedule = data[SENSOR], data[SCHEDULE]
    assert isinstance(sensor, SensorInstigatorData)
    assert (sensor.cursor, sensor.last_run_key) == ("a cursor", "a key")
    assert isinstance(schedule, ScheduleInstigatorData)
    assert schedule.start_timestamp is not None
    assert schedule.start_timestamp > 2.0


def test_a_second_pause_changes_nothing_and_says_so(cli: Cli, home: str) -> None:
    first = cli("pause", "--reason", "why", "--json", DAGSTER_HOME=home)
    second = cli("pause", "--reason", "another", DAGSTER_HOME=home)
    assert second.code == 0
    assert second.out.startswith("It was paused already, and stays so. Paused since ")
    assert cli("status", "--json", DAGSTER_HOME=home).json["paused"] == first.json["paused"]


def test_resume_where_nothing_is_paused_says_so(cli: Cli, home: str) -> None:
    done = cli("resume", DAGSTER_HOME=home)
    assert (done.code, done.out, done.err) == (0, "It was not paused: schedule and sensor are on.\n", "")


def test_one_that_was_switched_off_by_hand_is_told_and_pause_and_resume_take_it_along(
    cli: Cli, home: str, instance: DagsterInstance
) -> None:
    as_the_daemon_leaves_them(instance, LOCATION)
    [sensor] = [state for state in instance.all_instigator_state() if state.name == SENSOR]
    instance.update_instigator_state(sensor.with_status(InstigatorStatus.STOPPED))
    told = cli("status", "--json", DAGSTER_HOME=home)
    assert told.json["paused"] == {"since": None, "reason": None, "off": [SENSOR]}
    assert f"{SENSOR} switched off by hand." in cli("status", DAGSTER_HOME=home).out

    cli("pause", "--reason", "why", DAGSTER_HOME=home)
    assert cli("status", "--json", DAGSTER_HOME=home).json["paused"]["off"] == [SCHEDULE, SENSOR]
    cli("resume", DAGSTER_HOME=home)
    assert cli("status", "--json", DAGSTER_HOME=home).json["paused"] is None


@pytest.mark.parametrize("command", [("pause", "--reason", "why"), ("resume",)])
def test_without_dagsters_storage_it_can_not_begin(cli: Cli, command: tuple[str, ...], tmp_path: Path) -> None:
    unset = cli(*command)
    assert (unset.code, unset.out) == (2, "")
    assert "DAGSTER_HOME is not set" in unset.err
    (tmp_path / "dagster.yaml").write_text(
        "storage: {postgres: {postgres_url: 'postgresql://u:secret@127.0.0.1:1/dagster'}}"
    )
    down = cli(*command, DAGSTER_HOME=str(tmp_path))
    assert (down.code, down.out) == (2, "")
    assert "127.0.0.1:1/dagster" in down.err
    assert "secret" not in down.err


@pytest.mark.parametrize("reason", [(), ("--reason", " ")])
def test_a_pause_needs_a_reason(cli: Cli, home: str, instance: DagsterInstance, reason: tuple[str, ...]) -> None:
    done = cli("pause", *reason, DAGSTER_HOME=home)
    assert done.code == 2
    assert "--reason" in done.err
    assert states(instance) == {}
