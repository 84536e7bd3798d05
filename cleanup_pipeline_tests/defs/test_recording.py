"""What a tick finds in BullMQ stands in Dagster afterwards, once for each attempt."""

from datetime import datetime, timedelta

import pytest
import redis
from dagster import (
    AssetMaterialization,
    AssetObservation,
    AssetRecordsFilter,
    DagsterInstance,
    EventLogRecord,
    RunRequest,
    SkipReason,
)

from cleanup_pipeline.defs.tick import tick
from cleanup_pipeline.gate import day
from cleanup_pipeline.gate.dagster_facts import MESSAGE_CLEANUP, MessageCleanupReports
from cleanup_pipeline.gate.record import record_success
from cleanup_pipeline.gate.signals import Signal
from cleanup_pipeline_tests.bullmq import KEYS, leave, url_of
from cleanup_pipeline_tests.gate.storage import TODAY, today

DUE = today("03:00")
JOB = f"repeat:daily-cleanup:{int(DUE.timestamp() * 1000)}"
STARTED, ENDED = DUE + timedelta(milliseconds=100), DUE + timedelta(milliseconds=4123)


@pytest.fixture(autouse=True)
def _at_four(monkeypatch: pytest.MonkeyPatch, redis_db: redis.Redis) -> None:
    monkeypatch.setattr(day, "utc_now", lambda: today("04:00:01"))
    monkeypatch.setenv("MESSAGE_CLEANUP_REDIS_URL", url_of(redis_db))


def end(connection: redis.Redis, place: str, job: str = JOB, started: datetime = STARTED, **fields: str) -> None:
    ended = started + (ENDED - STARTED)
    told = {"name": "cleanup-expired-messages", "processedOn": ms(started), "finishedOn": ms(ended)}
    leave(connection, place, job, ms(ended), {**told, **fields})


def ms(instant: datetime) -> str:
    return str(round(instant.timestamp() * 1000))


def values(event: AssetMaterialization | AssetObservation | None) -> dict[str, object]:
    assert event is not None
    return {name: value.value for name, value in event.metadata.items()}


def records(instance: DagsterInstance) -> tuple[list[EventLogRecord], list[EventLogRecord]]:
    of = AssetRecordsFilter(asset_key=MESSAGE_CLEANUP)
    return (
        list(instance.fetch_materializations(of, limit=10).records),
        list(instance.fetch_observations(of, limit=10).records),
    )


def test_a_success_is_recorded_once_however_many_ticks_see_it(instance: DagsterInstance, redis_db: redis.Redis) -> None:
    end(redis_db, "completed")

    answers = [tick(instance, "sensor") for _ in range(3)]

    assert isinstance(answers[0], RunRequest)
    (materialization,), observations = records(instance)
    assert observations == []
    assert values(materialization.asset_materialization) == {
        "finished_at": ENDED.isoformat(),
        "started_at": STARTED.isoformat(),
        "scheduled_for": DUE.isoformat(),
        "source": "bullmq",
        "job_id": JOB,
    }


def test_what_is_recorded_is_the_same_attempt_as_the_one_in_redis(
    instance: DagsterInstance, redis_db: redis.Redis
) -> None:
    end(redis_db, "completed")
    tick(instance, "sensor")
    [reported] = MessageCleanupReports(instance).signals(today("04:00:01"))
    assert reported == Signal(
        source="materialization", state="succeeded", at=ENDED, day=TODAY, started=STARTED, echo_of="bullmq"
    )

    end(redis_db, "failed", "by hand", started=ENDED, failedReason="deadlock")

    answer = tick(instance, "sensor")
    assert isinstance(answer, SkipReason)
    assert "Message cleanup failed" in (answer.skip_message or "")


def test_one_that_was_promoted_yesterday_is_recorded_as_yesterdays(
    instance: DagsterInstance, redis_db: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = today("22:00") - timedelta(days=1)
    monkeypatch.setattr(day, "utc_now", lambda: late + timedelta(minutes=1))
    end(redis_db, "completed", started=late)
    redis_db.hdel(f"{KEYS}{JOB}", "processedOn")  # the start is not known
    tick(instance, "sensor")

    [reported] = MessageCleanupReports(instance).signals(late)

    assert reported.day == TODAY - timedelta(days=1)


def test_a_failure_is_an_observation_that_opens_nothing(instance: DagsterInstance, redis_db: redis.Redis) -> None:
    end(redis_db, "failed", failedReason="relation does not exist\nat line 7")

    answers = [tick(instance, "sensor") for _ in range(2)]

    assert all(isinstance(answer, SkipReason) for answer in answers)
    materializations, (observation,) = records(instance)
    assert materializations == []
    assert values(observation.asset_observation) == {
        "failed_at": ENDED.isoformat(),
        "started_at": STARTED.isoformat(),
        "scheduled_for": DUE.isoformat(),
        "source": "bullmq",
        "job_id": JOB,
        "reason": "relation does not exist",
    }
    redis_db.flushall()
    assert isinstance(tick(instance, "sensor"), SkipReason)


def test_each_try_of_one_job_is_recorded(instance: DagsterInstance, redis_db: redis.Redis) -> None:
    end(redis_db, "failed", failedReason="deadlock")
    tick(instance, "sensor")
    redis_db.delete(f"{KEYS}failed")
    end(redis_db, "completed", started=DUE + timedelta(minutes=20))
    tick(instance, "sensor")

    materializations, observations = records(instance)

    assert (len(materializations), len(observations)) == (1, 1)


def repeat(connection: redis.Redis) -> None:
    """Repeat the job by hand, as `job.retry('completed')` does; nobody takes it."""
    connection.zrem(f"{KEYS}completed", JOB)
    connection.hdel(f"{KEYS}{JOB}", "finishedOn", "processedOn", "returnvalue")
    connection.lpush(f"{KEYS}wait", JOB)


def test_a_recorded_success_is_no_second_opinion_beside_the_same_job_when_it_is_repeated(
    instance: DagsterInstance, redis_db: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    end(redis_db, "completed")
    monkeypatch.setattr(day, "utc_now", lambda: today("03:30"))
    tick(instance, "sensor")
    assert len(records(instance)[0]) == 1
    monkeypatch.setattr(day, "utc_now", lambda: today("04:00:01"))
    repeat(redis_db)

    waits = tick(instance, "sensor")
    assert isinstance(waits, SkipReason)
    assert "Message cleanup is due at 03:00:00 UTC and has not started (BullMQ)" in (waits.skip_message or "")

    redis_db.rpoplpush(f"{KEYS}wait", f"{KEYS}active")
    runs = tick(instance, "sensor")
    assert isinstance(runs, SkipReason)
    assert "Message cleanup has been running since" in (runs.skip_message or "")

    # A person's word is one.
    record_success(instance, today("03:59"), "by hand")
    redis_db.rpoplpush(f"{KEYS}active", f"{KEYS}wait")
    assert isinstance(tick(instance, "sensor"), RunRequest)


def test_what_is_recorded_is_what_is_known_while_redis_is_down_and_when_it_has_forgotten(
    instance: DagsterInstance, redis_db: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    end(redis_db, "completed")
    tick(instance, "sensor")
    redis_db.flushall()
    assert isinstance(tick(instance, "sensor"), RunRequest)

    monkeypatch.setenv("MESSAGE_CLEANUP_REDIS_URL", "unix:///no/such/socket")
    assert isinstance(tick(instance, "sensor"), RunRequest)

    monkeypatch.setenv("MESSAGE_CLEANUP_REDIS_URL", url_of(redis_db))
    end(redis_db, "failed", "by hand", started=ENDED, failedReason="deadlock")
    tick(instance, "sensor")
    monkeypatch.setenv("MESSAGE_CLEANUP_REDIS_URL", "unix:///no/such/socket")
    closed = tick(instance, "sensor")
    assert isinstance(closed, SkipReason)
    assert "(recorded from BullMQ): deadlock; BullMQ can't be reached" in (closed.skip_message or "")


def test_that_it_can_not_be_recorded_keeps_no_run_from_starting(
    instance: DagsterInstance, redis_db: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    end(redis_db, "completed")

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(instance, "report_runless_asset_event", full)

    assert isinstance(tick(instance, "sensor"), RunRequest)
