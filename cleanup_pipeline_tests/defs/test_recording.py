"""What a tick finds in BullMQ stands in Dagster afterwards, once for each attempt."""

from datetime import UTC, datetime, timedelta

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
from cleanup_pipeline.gate.bullmq import MessageCleanupJobs
from cleanup_pipeline.gate.dagster_facts import MESSAGE_CLEANUP, MessageCleanupReports
from cleanup_pipeline.gate.record import record_attempts, record_success
from cleanup_pipeline.gate.signals import Signal
from cleanup_pipeline_tests.bullmq import KEYS, BullMQ, leave, until, url_of
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


def test_an_attempt_is_recorded_once_though_its_job_is_removed_and_the_events_have_another_clock(
    instance: DagsterInstance, redis_db: redis.Redis
) -> None:
    kinds = {"1": "completed", "2": "failed"}
    for at, event in ((DUE, "added"), (STARTED, "active"), (ENDED, None)):
        for job, kind in kinds.items():
            told = {"event": event or kind, "jobId": job, "name": "cleanup-expired-messages"}
            redis_db.xadd(f"{KEYS}events", told, id=f"{int(ms(at)) + 7}-{job}")  # type: ignore[arg-type]  # text
    for job, kind in kinds.items():
        end(redis_db, kind, job)
    tick(instance, "sensor")
    redis_db.delete(*(f"{KEYS}{key}" for key in ("completed", "failed", "1", "2")))
    tick(instance, "sensor")

    assert [len(of) for of in records(instance)] == [1, 1]


def test_an_attempt_of_a_real_queue_is_recorded_once_though_the_queue_is_cleaned(
    instance: DagsterInstance, bull: BullMQ, redis_db: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(day, "utc_now", lambda: datetime.now(UTC))
    bull.do("await queue.add(NAME, {}); await work(async () => {}, 'completed')")
    tick(instance, "sensor")
    bull.do("await queue.clean(0, 100, 'completed')")
    assert not redis_db.zcard(f"{KEYS}completed")
    tick(instance, "sensor")

    assert [len(of) for of in records(instance)] == [1, 0]


def test_attempts_that_do_not_decide_the_day_are_recorded_too(
    instance: DagsterInstance, redis_db: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    yesterdays = f"repeat:daily-cleanup:{int(ms(DUE - timedelta(days=1)))}"
    end(redis_db, "completed", yesterdays, started=today("00:10"))
    end(redis_db, "failed", failedReason="deadlock")
    end(redis_db, "completed", "by hand", started=DUE + timedelta(minutes=20))
    for _ in range(2):
        tick(instance, "sensor")

    materializations, observations = records(instance)

    assert [values(of.asset_materialization)["job_id"] for of in materializations] == ["by hand", yesterdays]
    assert [values(of.asset_observation)["job_id"] for of in observations] == [JOB]
    monkeypatch.setenv("MESSAGE_CLEANUP_REDIS_URL", "unix:///no/such/socket")
    assert isinstance(tick(instance, "sensor"), RunRequest)


def test_each_try_of_a_real_job_is_recorded_once(
    instance: DagsterInstance, bull: BullMQ, redis_db: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(day, "utc_now", lambda: datetime.now(UTC))
    fails = "async () => { throw new Error('deadlock') }"
    bull.do(f"await queue.add(NAME, {{}}, {{ attempts: 2, backoff: 3600000 }}); await work({fails}, 'failed')")
    until(lambda: redis_db.zcard(f"{KEYS}delayed"), "the next try is planned")
    tick(instance, "sensor")
    bull.do("await reset()")
    bull.do("await queue.pause()")
    bull.do("await (await queue.getDelayed())[0].promote()")
    tick(instance, "sensor")
    assert [len(of) for of in records(instance)] == [0, 1]

    bull.do(f"const done = work({fails}, 'failed'); await queue.resume(); await done")
    until(lambda: redis_db.zcard(f"{KEYS}failed"), "it failed for good")
    for _ in range(2):
        tick(instance, "sensor")

    assert [len(of) for of in records(instance)] == [0, 2]


def test_a_failure_of_no_time_is_not_recorded_anew_at_each_look(
    instance: DagsterInstance, redis_db: redis.Redis
) -> None:
    leave(redis_db, "failed", JOB, "inf", {"name": "cleanup-expired-messages"})
    for moment in range(2):
        record_attempts(instance, MessageCleanupJobs(url_of(redis_db)).signals(today(f"04:0{moment}")), today("04:02"))

    assert records(instance)[1] == []


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
