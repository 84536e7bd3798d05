"""The gate under everything that happens to schedulers, in virtual time: see simulation.py and promises.py."""

import os
from collections.abc import Iterator
from datetime import timedelta

import pytest
from dagster import DagsterInstance
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cleanup_pipeline.gate import decision
from cleanup_pipeline_tests.gate.simulation import (
    BrokenPromise,
    ClockWrong,
    DaemonDown,
    Day,
    Event,
    Fate,
    ManualRun,
    MessageCleanup,
    Race,
    Reexecution,
    Report,
    ScheduleTick,
    SwitchedOff,
    new_instance,
    simulate,
)

DAYS = 3
# Four tests of so many scripts: 48 days, and with 85, as .ci/run has it, 1,020.
SCRIPTS = int(os.environ.get("CLEANUP_TEST_SCRIPTS", "4"))
LONG_SCRIPTS = 2500


@pytest.fixture(scope="module")
def storage() -> Iterator[DagsterInstance]:
    """One instance for all scripts, each of which has days of its own."""
    with new_instance() as instance:
        yield instance


def hours(first: int = 0, last: int = 24) -> st.SearchStrategy[str]:
    return st.integers(first * 60, last * 60 - 1).map(lambda minute: f"{minute // 60:02}:{minute % 60:02}")


# Much happens around the time at which it matters.
HOURS = hours(3, 7) | hours()
MINUTES = st.integers(0, 90)
USUAL = MessageCleanup("succeeded", "03:00")

MESSAGE_CLEANUPS = st.builds(
    MessageCleanup,
    st.sampled_from(["succeeded", "failed", "will be retried", "hangs", "never starts"]),
    HOURS,
    MINUTES,
    st.sampled_from(["today", "yesterday", "tomorrow", None]),
)
REPORTS = st.builds(Report, HOURS, st.none() | HOURS, st.sampled_from(["today", "yesterday"]))
DOWN = st.builds(DaemonDown, HOURS, HOURS)
OFF = st.builds(SwitchedOff, st.sampled_from(["schedule", "both"]), HOURS, HOURS)
WRONG = st.builds(ClockWrong, st.integers(-600, 600), HOURS, HOURS)
TICKS = st.builds(ScheduleTick, HOURS, st.sampled_from(["today", "yesterday", "last week"]))
RACES = st.builds(
    Race,
    st.just("04:00") | HOURS,
    st.lists(st.sampled_from(["schedule", "sensor"]), min_size=2, max_size=4).map(tuple),
)
MANUAL = st.builds(ManualRun, HOURS, MINUTES, st.booleans())
AGAIN = st.builds(Reexecution, HOURS)
FATES = st.builds(
    Fate,
    st.sampled_from(
        [
            "failed",
            "good",
            "refused",
            "skipped",
            "interrupted",
            "crashed",
            "hangs in canceling",
            "lost",
            "never starts",
            "good, but Dagster does not see its end",
        ]
    ),
    st.integers(0, 5) | st.integers(0, 60),
    # A run may wait for another's place, and start when that one has ended.
    st.sampled_from([0, 0, 10, 70]),
) | st.builds(
    Fate, st.sampled_from(["good", "failed", "good, but run monitoring gave it up"]), st.integers(235, 280), st.just(0)
)
SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "CLEANUP_GATE": st.sampled_from(["on", "off"]),
        "CLEANUP_GATE_DEADLINE": st.sampled_from(["03:30", "04:30", "08:00"]),
        "CLEANUP_GATE_WHEN_LATE": st.sampled_from(["hold", "run"]),
        "CLEANUP_NIGHT_ENDS": st.sampled_from(["05:00", "09:00", "02:00"]),
    },
)
NOTHING_SET: st.SearchStrategy[dict[str, str]] = st.just({})


def scripts(
    *events: st.SearchStrategy[Event],
    usual: bool = True,
    fates: int = 2,
    settings: st.SearchStrategy[dict[str, str]] = NOTHING_SET,
) -> st.SearchStrategy[list[Day]]:
    """Make scripts of days on which some of the events happen; `usual`: and a message cleanup that succeeds."""
    some = st.lists(st.one_of(*events), max_size=5, unique_by=lambda event: event.at).map(
        lambda some: [USUAL, *(event for event in some if event.at != USUAL.at)] if usual else some
    )
    days = st.builds(Day, some, st.lists(FATES, max_size=fates), settings)
    return st.lists(days, min_size=DAYS, max_size=DAYS)


MESSAGE_CLEANUP_GOES_WRONG = scripts(MESSAGE_CLEANUPS, REPORTS, DOWN, usual=False, fates=1, settings=SETTINGS)
RUNS_GO_WRONG = scripts(AGAIN, RACES, MANUAL, DOWN, MESSAGE_CLEANUPS, fates=6)
SCHEDULERS_GO_WRONG = scripts(DOWN, OFF, WRONG, TICKS, RACES, REPORTS)
ALL_GOES_WRONG = scripts(
    MESSAGE_CLEANUPS, REPORTS, DOWN, OFF, WRONG, TICKS, RACES, MANUAL, AGAIN, fates=4, settings=SETTINGS
)

# The same scripts at every run: a change that breaks nothing must not be held up by chance. The long form explores.
PROPERTY = settings(
    max_examples=SCRIPTS,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)
# Where a script breaks a promise, Hypothesis takes minutes to make it short.
pytestmark = pytest.mark.timeout(900)


@PROPERTY
@given(script=MESSAGE_CLEANUP_GOES_WRONG)
def test_the_promises_hold_when_message_cleanup_is_late_early_failed_repeated_or_missing(
    storage: DagsterInstance, script: list[Day]
) -> None:
    simulate(storage, script)


@PROPERTY
@given(script=RUNS_GO_WRONG)
def test_the_promises_hold_when_runs_fail_are_lost_race_or_are_started_again(
    storage: DagsterInstance, script: list[Day]
) -> None:
    simulate(storage, script)


@PROPERTY
@given(script=SCHEDULERS_GO_WRONG)
def test_the_promises_hold_when_daemons_are_down_clocks_jump_and_ticks_are_stale(
    storage: DagsterInstance, script: list[Day]
) -> None:
    simulate(storage, script)


@PROPERTY
@given(script=ALL_GOES_WRONG)
def test_the_promises_hold_when_everything_goes_wrong(storage: DagsterInstance, script: list[Day]) -> None:
    simulate(storage, script)


@pytest.mark.long
@pytest.mark.timeout(6 * 3600)
@settings(PROPERTY, max_examples=LONG_SCRIPTS, derandomize=False)
@given(script=MESSAGE_CLEANUP_GOES_WRONG | RUNS_GO_WRONG | SCHEDULERS_GO_WRONG | ALL_GOES_WRONG)
def test_the_promises_hold_on_thousands_of_other_days(storage: DagsterInstance, script: list[Day]) -> None:
    simulate(storage, script)


QUEUED = [(0, 0, 0, 0), (0, 1, 2, 3), (3, 2, 1, 0), (0, 0, 5, 5), (1, 0, 0, 1)]


@pytest.mark.parametrize("minutes", [0, 1, 3, 10])
@pytest.mark.parametrize("queued", QUEUED)
def test_of_the_runs_that_two_daemons_start_at_four_one_does_work(
    storage: DagsterInstance, queued: tuple[int, ...], minutes: int
) -> None:
    """C11: two daemons on one storage, whose schedules and sensors all look before any has started its run."""
    race = Race("04:00", ticks=("schedule", "schedule", "sensor", "sensor"))
    runs = simulate(storage, [Day([USUAL, race], [Fate("good", minutes, queued=queue) for queue in queued])])

    assert sorted(str(run.told) for run in runs) == ["success", "superseded", "superseded", "superseded"]
    assert [run.claimed for run in runs].count(True) == 1


def test_a_daemon_that_is_restarted_every_50_minutes_starts_one_run_each_day(storage: DagsterInstance) -> None:
    """C16: for three days; it is away for two minutes each time, on the first day over 04:00."""
    restarts: list[list[Event]] = [[USUAL] for _ in range(3)]
    for minute in range(40, 3 * 24 * 60 - 50, 50):
        day, of_day = divmod(minute, 24 * 60)
        at, until = (f"{then // 60 % 24:02}:{then % 60:02}" for then in (of_day, of_day + 2))
        restarts[day].append(DaemonDown(at, until))

    runs = simulate(storage, [Day(events) for events in restarts])

    assert [run.told for run in runs] == ["success", "success", "success"]
    assert len({run.day for run in runs}) == 3


def test_a_day_that_was_missed_is_not_made_up(storage: DagsterInstance) -> None:
    whole_day = DaemonDown("00:30", "00:20")
    runs = simulate(storage, [Day([USUAL, whole_day]), Day([USUAL])])

    assert [run.told for run in runs] == ["success"]


def test_while_a_lost_run_still_works_new_attempts_are_superseded_and_its_own_end_is_the_days(
    storage: DagsterInstance,
) -> None:
    runs = simulate(storage, [Day([USUAL], [Fate("good, but Dagster does not see its end", minutes=270)])])

    first, *others = runs
    assert first.told == "success"
    assert [run.told for run in others] == ["superseded"] * len(others)
    assert others


def test_a_promise_that_is_broken_is_told_with_its_script_and_what_came_of_it(
    storage: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decision, "PAUSES", (timedelta(minutes=1), timedelta(minutes=30)))

    with pytest.raises(BrokenPromise) as caught:
        simulate(storage, [Day([MessageCleanup("succeeded", "03:07")], [Fate("failed")])])

    told = str(caught.value)
    assert "04:11:37+00:00 a run is started, although attempt 1 has just failed." in told
    assert "day 1:\n  MessageCleanup('succeeded', at='03:07')\n  runs of the day: Fate('failed')\n" in told
    assert "day 1 4:02:02  run 1: failed\n" in told
