"""The gate's laws, over random signals, runs and settings."""

from datetime import UTC, date, datetime, time, timedelta

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cleanup_pipeline.gate.day import utc_day
from cleanup_pipeline.gate.decision import MOST_ATTEMPTS, decide
from cleanup_pipeline.gate.runs import DayRun
from cleanup_pipeline.gate.settings import Settings
from cleanup_pipeline.gate.signals import Signal

# No judgement by the clock: a busy machine is no fault.
UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

TODAY = date(2026, 11, 24)
DAYS = st.sampled_from([TODAY - timedelta(days=1), TODAY])
INSTANTS = st.integers(0, 24 * 60 - 1).map(
    lambda minute: datetime(2026, 11, 24, tzinfo=UTC) + timedelta(minutes=minute)
)
HOURS = st.times().map(lambda hour: hour.replace(second=0, microsecond=0))

SIGNALS = st.builds(
    lambda source, state, at, day, started: Signal(
        source=source,
        state=state,
        at=at,
        day=None if state in ("unknown", "unreachable") else day,
        started=started,
    ),
    st.sampled_from(["bullmq", "dagster_run", "materialization"]),
    st.sampled_from(["succeeded", "running", "retrying", "failed", "waiting", "unknown", "unreachable"]),
    INSTANTS,
    DAYS,
    st.none() | INSTANTS,
)
RUNS = st.builds(
    lambda run_id, day, status, created, minutes: DayRun(
        run_id=run_id,
        day=day,
        trigger="sensor",
        status=status,
        created=created,
        started=created,
        ended=None if status in ("queued", "running") else created + timedelta(minutes=minutes),
        lost_after=created + timedelta(hours=4) if status == "running" else None,
    ),
    st.uuids().map(str),
    DAYS | st.none(),
    st.sampled_from(["queued", "running", "success", "failed", "refused", "skipped", "interrupted", "superseded"]),
    INSTANTS,
    st.integers(0, 60),
)
SETTINGS = st.builds(
    Settings,
    gate_on=st.booleans(),
    deadline=HOURS,
    when_late=st.sampled_from(["hold", "run"]),
    night_ends=st.none() | HOURS,
    faults=st.sampled_from([(), (), (), ("CLEANUP_GATE is malformed",)]),
)
SIGNALS_OF_ALL = st.lists(SIGNALS, max_size=6)
RUNS_OF_ALL = st.lists(RUNS, max_size=6, unique_by=lambda run: run.run_id)


@UNTIMED
@given(INSTANTS, SIGNALS_OF_ALL, RUNS_OF_ALL, SETTINGS)
def test_a_launch_keeps_every_promise(
    now: datetime, signals: list[Signal], runs: list[DayRun], settings: Settings
) -> None:
    decision = decide(now, signals, runs, settings)

    if not decision.launch:
        return
    todays = [run for run in runs if run.day == utc_day(now)]
    assert now.time() >= time(4)
    assert not settings.faults
    assert not any(run.good or run.is_on(now) or run.status == "refused" for run in todays)
    assert sum(run.failed(now) for run in todays) < MOST_ATTEMPTS
    assert all(run.over_at() + timedelta(minutes=10) <= now for run in todays)
    late = settings.when_late == "run" and now.time() >= settings.deadline
    succeeded = any(signal.state == "succeeded" and signal.day == utc_day(now) for signal in signals)
    assert succeeded or late or not settings.gate_on
    assert decision.tag or (decision.signal and decision.signal.state == "succeeded")
    assert decision.run_key is not None


@UNTIMED
@given(INSTANTS, SIGNALS_OF_ALL, RUNS_OF_ALL, SETTINGS)
def test_the_order_of_signals_and_runs_does_not_matter_to_whether_it_launches(
    now: datetime, signals: list[Signal], runs: list[DayRun], settings: Settings
) -> None:
    decision = decide(now, signals, runs, settings)
    other = decide(now, signals[::-1], runs[::-1], settings)

    assert (decision.state, decision.launch) == (other.state, other.launch)


@UNTIMED
@given(INSTANTS, SIGNALS_OF_ALL, RUNS_OF_ALL, SETTINGS)
def test_the_reason_is_one_line_and_one_sentence(
    now: datetime, signals: list[Signal], runs: list[DayRun], settings: Settings
) -> None:
    reason = decide(now, signals, runs, settings).reason

    assert len(reason.splitlines()) == 1
    assert reason.endswith(".")
    assert "None" not in reason


@UNTIMED
@given(INSTANTS, SIGNALS_OF_ALL, RUNS_OF_ALL, SETTINGS)
def test_what_is_not_todays_changes_nothing(
    now: datetime, signals: list[Signal], runs: list[DayRun], settings: Settings
) -> None:
    decision = decide(now, signals, runs, settings)
    only_todays = decide(
        now,
        [signal for signal in signals if signal.day in (None, utc_day(now))],
        [run for run in runs if run.day == utc_day(now)],
        settings,
    )

    assert (decision.state, decision.launch) == (only_todays.state, only_todays.launch)


@UNTIMED
@given(INSTANTS, SIGNALS_OF_ALL, RUNS_OF_ALL, SETTINGS)
def test_until_it_is_tried_again_the_clock_alone_changes_nothing(
    now: datetime, signals: list[Signal], runs: list[DayRun], settings: Settings
) -> None:
    decision = decide(now, signals, runs, settings)

    if decision.launch or decision.try_at is None:
        return
    assert decision.try_at > now
    before = min(decision.try_at - timedelta(seconds=1), now.replace(hour=23, minute=59))
    if before > now:
        assert not decide(before, signals, runs, settings).launch
