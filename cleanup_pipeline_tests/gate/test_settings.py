"""Settings from the environment."""

from dataclasses import replace
from datetime import UTC, date, datetime, time

import pytest

from cleanup_pipeline.gate.settings import Settings


def test_without_variables_the_gate_is_on_and_holds_from_six() -> None:
    settings = Settings.from_environment({})

    assert settings == Settings(
        gate_on=True, deadline=time(6), when_late="hold", night_ends=None, job="message_cleanup", location=None
    )


def test_every_variable_is_read() -> None:
    environment = {
        "CLEANUP_GATE": "OFF",
        "CLEANUP_GATE_DEADLINE": "0:00",
        "CLEANUP_GATE_WHEN_LATE": "run",
        "CLEANUP_NIGHT_ENDS": " 07:30 ",
        "MESSAGE_CLEANUP_DAGSTER_JOB": "purge",
        "MESSAGE_CLEANUP_DAGSTER_LOCATION": "chat",
    }

    assert Settings.from_environment(environment) == Settings(
        gate_on=False, deadline=time(0), when_late="run", night_ends=time(7, 30), job="purge", location="chat"
    )


def test_an_empty_variable_is_one_that_is_not_set() -> None:
    assert Settings.from_environment({"CLEANUP_GATE": "", "CLEANUP_GATE_DEADLINE": " "}) == Settings()


@pytest.mark.parametrize(
    ("variable", "value", "accepted"),
    [
        ("CLEANUP_GATE", "maybe", "on or off"),
        ("CLEANUP_GATE_WHEN_LATE", "wait", "hold or run"),
        ("CLEANUP_GATE_DEADLINE", "24:00", "HH:MM"),
        ("CLEANUP_GATE_DEADLINE", "6", "HH:MM"),
        ("CLEANUP_GATE_DEADLINE", "06:00Z", "HH:MM"),
        ("CLEANUP_NIGHT_ENDS", "morning", "HH:MM"),
    ],
)
def test_a_malformed_value_is_told_by_name_and_hides_no_other(variable: str, value: str, accepted: str) -> None:
    settings = Settings.from_environment({variable: value, "MESSAGE_CLEANUP_DAGSTER_JOB": "purge"})

    (fault,) = settings.faults
    assert f"{variable} is {value!r}, accepted is " in fault
    assert accepted in fault
    assert replace(settings, faults=()) == Settings(job="purge")


def test_every_malformed_value_is_told() -> None:
    settings = Settings.from_environment(dict.fromkeys(["CLEANUP_GATE", "CLEANUP_NIGHT_ENDS"], "perhaps"))

    assert [fault.partition(" ")[0] for fault in settings.faults] == ["CLEANUP_GATE", "CLEANUP_NIGHT_ENDS"]


@pytest.mark.parametrize(("hour", "day_of_month"), [("04:01", 24), ("23:00", 24), ("04:00", 25), ("00:00", 25)])
def test_a_night_ends_at_the_first_such_hour_after_the_run_is_due(hour: str, day_of_month: int) -> None:
    settings = Settings(night_ends=time.fromisoformat(hour))

    end = settings.night_end(date(2026, 11, 24))

    assert end == datetime.combine(date(2026, 11, day_of_month), time.fromisoformat(hour), tzinfo=UTC)


def test_without_the_variable_a_night_has_no_end() -> None:
    assert Settings().night_end(date(2026, 11, 24)) is None
