"""Message cleanup as a real BullMQ leaves it in a real Redis, state by state."""

from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pytest
import redis

from cleanup_pipeline.gate import bullmq, redis_client
from cleanup_pipeline.gate.bullmq import MessageCleanupJobs
from cleanup_pipeline.gate.day import at, clock, utc_day
from cleanup_pipeline.gate.queue import instant
from cleanup_pipeline.gate.signals import Signal, listen
from cleanup_pipeline.gate.verdict import Verdict, judge
from cleanup_pipeline_tests.bullmq import KEYS, BullMQ, leave, until, url_of
from cleanup_pipeline_tests.bullmq import bullmq as bullmq_process

DAY = timedelta(days=1)
MOMENT = timedelta(seconds=5)

# Processors of jobs, in JavaScript.
FAILS = "async () => { throw new Error('relation \"messages\" does not exist\\nat line 7') }"
SUCCEEDS = "async () => {}"


def heard(
    connection: redis.Redis, now: datetime | None = None, day: date | None = None, reported: datetime | None = None
) -> Verdict:
    """What BullMQ alone tells about a day; `now`'s, unless told otherwise. `reported`: beside a report of success."""
    now = now or datetime.now(UTC)
    signals = listen([MessageCleanupJobs(url_of(connection))], now)
    if reported:
        report = Signal(source="materialization", state="succeeded", at=reported, day=utc_day(reported))
        signals = (*signals, report)
    return judge(day or utc_day(now), signals)


def only_signal(verdict: Verdict) -> Signal:
    (signal,) = verdict.signals
    return signal


def instant_of(milliseconds: float) -> datetime:
    moment = instant(milliseconds)
    assert moment is not None
    return moment


def planned(bull: BullMQ) -> datetime:
    """Plan the daily job; returns when it is due."""
    job = bull.do("const job = await schedule(); return job.timestamp + job.delay")
    return instant_of(job)


def promoted(bull: BullMQ, processor: str, event: str, options: str = "{}", worker: str = "{}") -> datetime:
    """Plan the daily job, have it run now, until `event`; returns the instant that it had been due at."""
    due = bull.do(
        f"const job = await schedule({options}); const due = job.timestamp + job.delay; await job.promote();"
        f"await work({processor}, {event!r}, {worker}); return due"
    )
    return instant_of(due)


def members(connection: redis.Redis, place: str) -> list[bytes]:
    key = f"{KEYS}{place}"
    found = connection.lrange(key, 0, -1) if place == "active" else connection.zrange(key, 0, -1)
    return [name for name in found if isinstance(name, bytes)]


def finished(connection: redis.Redis, place: str) -> datetime:
    (name,) = members(connection, place)
    return instant_of(float(connection.zscore(f"{KEYS}{place}", name) or 0))


# One test a state.


def test_a_job_that_is_planned_is_waited_for_on_its_day_and_no_trace_before(
    bull: BullMQ, redis_db: redis.Redis
) -> None:
    due = planned(bull)

    the_day_before = heard(redis_db, due - DAY)
    assert only_signal(the_day_before) == Signal(source="bullmq", state="unknown")

    just_before, late = (heard(redis_db, due + distance) for distance in (-MOMENT, MOMENT))
    assert (only_signal(just_before).state, only_signal(just_before).at) == ("waiting", due)
    assert just_before.clauses == late.clauses
    assert late.clauses == (f"Message cleanup is due at {clock(due, utc_day(due))} and has not started (BullMQ)",)


def test_a_job_that_no_worker_takes_is_waiting(bull: BullMQ, redis_db: redis.Redis) -> None:
    bull.do("await (await schedule()).promote()")

    verdict = heard(redis_db)

    assert only_signal(verdict).state == "waiting"
    assert not verdict.done


def test_a_paused_queue_is_told(bull: BullMQ, redis_db: redis.Redis) -> None:
    bull.do("await queue.pause()")
    assert heard(redis_db).clauses[1:] == ("BullMQ's queue is paused",)

    bull.do("await (await schedule()).promote()")

    verdict = heard(redis_db)
    assert only_signal(verdict).state == "waiting"
    assert len(verdict.clauses) == 1
    assert verdict.clauses[0].endswith("has not started (BullMQ): the queue is paused")


def test_a_job_with_a_priority_is_seen(bull: BullMQ, redis_db: redis.Redis) -> None:
    bull.do("await queue.add(NAME, {}, { priority: 7 })")

    assert redis_db.zcard(f"{KEYS}prioritized") == 1
    assert only_signal(heard(redis_db)).state == "waiting"


def test_a_job_in_progress_is_running_since_it_was_taken(bull: BullMQ, redis_db: redis.Redis) -> None:
    promoted(bull, "forever", "active")

    signal = only_signal(heard(redis_db))

    (name,) = members(redis_db, "active")
    taken = instant_of(float(redis_db.hget(f"{KEYS}{name.decode()}", "processedOn") or 0))
    assert (signal.state, signal.at, signal.detail) == ("running", taken, None)


def test_a_job_that_began_yesterday_and_is_still_in_progress_is_told_and_waited_for(
    bull: BullMQ, redis_db: redis.Redis
) -> None:
    promoted(bull, "forever", "active")
    today = only_signal(heard(redis_db))
    assert today.at is not None

    for now in (today.at + DAY, at(utc_day(today.at) + 2 * DAY, time(4))):
        verdict = heard(redis_db, now)

        assert (only_signal(verdict).state, only_signal(verdict).at) == ("running", today.at)
        assert verdict.clauses == (f"Message cleanup has been running since {clock(today.at, utc_day(now))} (BullMQ)",)


def test_a_job_whose_worker_is_gone_is_running_and_told_as_stalled(bull: BullMQ, redis_db: redis.Redis) -> None:
    promoted(bull, "forever", "active", worker="{ skipLockRenewal: true, skipStalledCheck: true }")
    (name,) = members(redis_db, "active")
    redis_db.delete(f"{KEYS}{name.decode()}:lock")

    signal = only_signal(heard(redis_db))

    assert signal.state == "running"
    assert signal.detail == "its worker shows no sign of life (stalled)"


def test_a_job_that_ended_well_has_succeeded_on_the_day_it_was_promoted(bull: BullMQ, redis_db: redis.Redis) -> None:
    due = promoted(bull, SUCCEEDS, "completed")

    verdict = heard(redis_db)

    ended = finished(redis_db, "completed")
    signal = only_signal(verdict)
    assert verdict.done
    assert (signal.state, signal.at, signal.day, signal.scheduled) == ("succeeded", ended, utc_day(signal.began), due)
    assert verdict.clauses == (f"Message cleanup succeeded at {clock(ended, utc_day(ended))} (BullMQ)",)


def test_the_success_of_yesterday_is_told_and_does_not_count(bull: BullMQ, redis_db: redis.Redis) -> None:
    promoted(bull, SUCCEEDS, "completed")
    ended = finished(redis_db, "completed")
    tomorrow = utc_day(ended) + DAY
    bull.do("await reset()")
    redis_db.delete(f"{KEYS}delayed")  # the next one was planned when this one was taken

    verdict = heard(redis_db, ended + DAY, tomorrow)

    assert not verdict.done
    assert verdict.clauses == (
        f"No trace of message cleanup for {tomorrow}",
        f"the last success is the one for {utc_day(ended)}, at {clock(ended, tomorrow)} (BullMQ)",
    )


def test_a_job_that_failed_for_good_is_told_with_time_and_first_line(bull: BullMQ, redis_db: redis.Redis) -> None:
    promoted(bull, FAILS, "failed")

    verdict = heard(redis_db)

    ended = finished(redis_db, "failed")
    assert (only_signal(verdict).state, only_signal(verdict).at) == ("failed", ended)
    assert verdict.clauses == (
        f'Message cleanup failed at {clock(ended, utc_day(ended))} (BullMQ): relation "messages" does not exist',
    )


@pytest.mark.parametrize("backoff", [0, 3_600_000])
def test_a_job_that_has_a_try_left_will_be_tried_again(bull: BullMQ, redis_db: redis.Redis, backoff: int) -> None:
    options = f"{{ attempts: 2, backoff: {{ type: 'fixed', delay: {backoff} }} }}"
    processor = "async (job) => { if (job.attemptsMade) await forever(); throw new Error('deadlock') }"
    promoted(bull, processor, "failed", options)

    signal = only_signal(heard(redis_db))

    if backoff:
        assert signal.state == "retrying"
        assert signal.at is not None
        assert signal.at - signal.began >= timedelta(milliseconds=backoff)
        assert signal.detail == "deadlock"
    else:
        # Taken again at once.
        assert signal.state in ("retrying", "running")


# With an hour's rest between two tries.
TWO_TRIES, THREE_TRIES = (f"{{ attempts: {tries}, backoff: {{ type: 'fixed', delay: 3600000 }} }}" for tries in (2, 3))


@pytest.mark.parametrize("error", ["new Error('deadlock')", "new Error()", "new Error('\\n')"])
def test_a_try_that_is_left_after_an_earlier_job_had_succeeded_is_waited_for(
    bull: BullMQ, redis_db: redis.Redis, error: str
) -> None:
    bull.do(f"await queue.add(NAME, {{}}); await work({SUCCEEDS}, 'completed'); await reset()")
    bull.do(f"await queue.add(NAME, {{}}, {TWO_TRIES}); await work(async () => {{ throw {error} }}, 'failed')")
    until(lambda: redis_db.zcard(f"{KEYS}delayed"), "the next try is planned")

    verdict = heard(redis_db)

    assert only_signal(verdict).state == "retrying"
    assert not verdict.done


def test_a_try_that_is_left_is_waited_for_though_the_jobs_id_still_stands_among_the_completed(
    bull: BullMQ, redis_db: redis.Redis
) -> None:
    promoted(bull, SUCCEEDS, "completed", THREE_TRIES)
    bull.do("await reset()")
    promoted(bull, FAILS, "failed", THREE_TRIES)
    until(lambda: members(redis_db, "completed")[0] in members(redis_db, "delayed"), "the next try is planned")

    assert only_signal(heard(redis_db)).state == "retrying"

    # Its hour has come, and nobody takes it.
    (job,) = members(redis_db, "completed")
    bull.do("await reset()")
    bull.do("await queue.pause()")
    bull.do(f"await (await queue.getJob({job.decode()!r})).promote()")
    assert only_signal(heard(redis_db)).state == "retrying"


def test_a_report_counts_against_a_try_that_is_left_from_the_failure_on(bull: BullMQ, redis_db: redis.Redis) -> None:
    bull.do(f"await queue.add(NAME, {{}}, {TWO_TRIES}); await work({FAILS}, 'failed'); await reset()")
    until(lambda: redis_db.zcard(f"{KEYS}delayed"), "the next try is planned")
    failed = only_signal(heard(redis_db)).ended
    assert failed is not None

    def opens(after: timedelta) -> bool:
        return heard(redis_db, reported=failed + after).done

    assert (opens(-MOMENT / 1000), opens(MOMENT)) == (False, True)

    # Its hour has come, and nobody takes it: only the events still tell when it failed.
    bull.do("await queue.pause()")
    bull.do("await (await queue.getDelayed())[0].promote()")
    assert only_signal(heard(redis_db)).ended is not None
    assert (opens(-timedelta(seconds=1)), opens(MOMENT)) == (False, True)


def test_a_failed_job_that_somebody_repeats_is_waited_for_though_another_has_succeeded_since(
    bull: BullMQ, redis_db: redis.Redis
) -> None:
    bull.do(f"await queue.add(NAME, {{}}, {{ jobId: 'mine' }}); await work({FAILS}, 'failed'); await reset()")
    bull.do(f"await queue.add(NAME, {{}}); await work({SUCCEEDS}, 'completed'); await reset()")
    assert heard(redis_db).done

    bull.do("await (await queue.getFailed())[0].retry()")

    assert only_signal(heard(redis_db)).state == "waiting"


def test_a_failed_job_that_somebody_repeats_is_waiting_then_succeeded(bull: BullMQ, redis_db: redis.Redis) -> None:
    promoted(bull, FAILS, "failed")
    bull.do("await reset()")
    bull.do("await (await queue.getFailed())[0].retry()")
    assert only_signal(heard(redis_db)).state == "waiting"

    bull.do(f"await work({SUCCEEDS}, 'completed')")

    assert heard(redis_db).done


@pytest.mark.parametrize(
    ("processor", "event", "state"), [(SUCCEEDS, "completed", "succeeded"), (FAILS, "failed", "failed")]
)
def test_a_job_that_was_removed_when_it_ended_is_known_from_the_events(
    bull: BullMQ, redis_db: redis.Redis, processor: str, event: str, state: str
) -> None:
    promoted(bull, processor, event, "{ removeOnComplete: true, removeOnFail: true }")
    assert not redis_db.zcard(f"{KEYS}{event}")

    signal = only_signal(heard(redis_db))

    assert signal.state == state
    assert signal.at is not None
    assert signal.started is not None
    assert signal.started <= signal.at
    assert signal.detail == (None if state == "succeeded" else 'relation "messages" does not exist')


def test_a_job_that_was_pruned_leaves_no_trace(bull: BullMQ, redis_db: redis.Redis) -> None:
    promoted(bull, SUCCEEDS, "completed", "{ removeOnComplete: true }")
    bull.do("await reset()")
    bull.do("await queue.trimEvents(0)")

    verdict = heard(redis_db)

    assert only_signal(verdict).state == "unknown"
    assert verdict.clauses == (f"No trace of message cleanup for {utc_day(datetime.now(UTC))}",)


def test_a_job_that_was_added_by_hand_counts_by_its_name_and_others_do_not(bull: BullMQ, redis_db: redis.Redis) -> None:
    bull.do(f"const done = work({SUCCEEDS}, 'completed'); await queue.add('rebuild-index', {{}}); await done")
    assert only_signal(heard(redis_db)).state == "unknown"

    bull.do("await queue.add(NAME, {})")
    until(lambda: heard(redis_db).done, "the worker has taken this one too")


def test_a_job_that_was_promoted_and_planned_anew_has_succeeded_today_and_waits_on_its_own_day(
    bull: BullMQ, redis_db: redis.Redis
) -> None:
    due = promoted(bull, SUCCEEDS, "completed")
    bull.do("await reset()")
    bull.do("await schedule()")
    assert members(redis_db, "completed") == members(redis_db, "delayed")
    ended = finished(redis_db, "completed")
    if utc_day(due) == utc_day(ended):
        return  # before 03:00 both are attempts of one day, and the newer one is to come

    assert heard(redis_db).done
    assert only_signal(heard(redis_db, due - MOMENT)).state == "waiting"

    # It runs again: its hash tells of this try, and its place among the completed of the one before.
    bull.do("await (await queue.getDelayed())[0].promote(); await work(forever, 'active')")
    assert only_signal(heard(redis_db)).state == "running"


def test_a_job_of_the_older_repeat_option_counts_by_its_name(redis_db: redis.Redis) -> None:
    path = redis_db.connection_pool.connection_kwargs["path"]
    with bullmq_process("bullmq-4", {"path": path}) as bull:
        due = promoted(bull, SUCCEEDS, "completed")
    (name,) = members(redis_db, "completed")
    assert not name.startswith(b"repeat:daily-cleanup:")

    verdict = heard(redis_db)

    assert verdict.done
    assert only_signal(verdict).scheduled == due


# Odd data, and what no BullMQ of ours leaves behind.

TODAY_AT_NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
DUE = at(TODAY_AT_NOON.date(), time(3))
SOUND = {"name": "cleanup-expired-messages", "processedOn": "1795489200100", "finishedOn": "1795489204123"}
JOB_ID = "repeat:daily-cleanup:1795489200000"


def test_a_sound_job_succeeded_at_the_millisecond(redis_db: redis.Redis) -> None:
    leave(redis_db, "completed", JOB_ID, 1795489204123, SOUND)

    signal = only_signal(heard(redis_db, TODAY_AT_NOON))

    assert signal == Signal(
        source="bullmq",
        state="succeeded",
        at=DUE + timedelta(milliseconds=4123),
        day=DUE.date(),
        started=DUE + timedelta(milliseconds=100),
        attempt=JOB_ID,
        scheduled=DUE,
    )


@pytest.mark.parametrize(
    ("job", "score", "fields"),
    [
        pytest.param(JOB_ID, 1795489204123, {}, id="no hash"),
        pytest.param(JOB_ID, 1795489204123, {"name": "cleanup-expired-messages"}, id="no finishedOn"),
        pytest.param(JOB_ID, 1795489204123, {**SOUND, "finishedOn": "NaN"}, id="finishedOn is NaN"),
        pytest.param(JOB_ID, 1795489204123, {**SOUND, "finishedOn": "soon"}, id="finishedOn is a word"),
        pytest.param(JOB_ID, 1795489204123, {**SOUND, "finishedOn": "1795489_204_123"}, id="only Python reads it"),
        pytest.param(JOB_ID, 1795489204123, {**SOUND, "finishedOn": " 1795489204123"}, id="a blank before finishedOn"),
        pytest.param(JOB_ID, 1795489204123, {**SOUND, "finishedOn": "infinity"}, id="finishedOn is infinite"),
        pytest.param(JOB_ID, 1795489204123, {**SOUND, "processedOn": "1_0"}, id="only Python reads processedOn"),
        pytest.param(JOB_ID, 1795489204123, {**SOUND, "finishedOn": "1795579204123"}, id="finishedOn is to come"),
        pytest.param(
            JOB_ID,
            1795489204123,
            {**SOUND, "processedOn": "1795402800100", "finishedOn": "1795402804123"},
            id="finished yesterday, the score is of today",
        ),
        pytest.param(JOB_ID, 1795489204123, {**SOUND, "processedOn": "1795489204124"}, id="began after its end"),
        pytest.param(JOB_ID, 1795489204123, {**SOUND, "processedOn": "9" * 400}, id="processedOn is huge"),
        pytest.param(JOB_ID, 1795489204123, {**SOUND, "finishedOn": b"\xff\xfe"}, id="finishedOn is no UTF-8"),
        pytest.param(JOB_ID, "+inf", SOUND, id="the score is infinite"),
        pytest.param(JOB_ID, 9e300, SOUND, id="the score is huge"),
        pytest.param(JOB_ID, 1795579204123, {**SOUND, "finishedOn": "1795579204123"}, id="finished in the future"),
        pytest.param(f"repeat:daily-cleanup:{'9' * 30}", 1795489204123, SOUND, id="scheduled for no instant"),
    ],
)
def test_odd_data_is_told_and_opens_nothing(
    redis_db: redis.Redis, job: str, score: object, fields: dict[str, str | bytes]
) -> None:
    leave(redis_db, "completed", job, score, fields)

    verdict = heard(redis_db, TODAY_AT_NOON)

    assert not verdict.done
    assert only_signal(verdict).state == "unknown"
    assert f"BullMQ's completed job {job} does not count" in verdict.clauses[1]


def test_a_job_added_by_hand_yesterday_of_which_the_start_is_unknown_is_yesterdays(redis_db: redis.Redis) -> None:
    made = TODAY_AT_NOON - timedelta(hours=12, minutes=10)
    fields = {"name": SOUND["name"], "finishedOn": SOUND["finishedOn"], "timestamp": f"{made.timestamp() * 1000:.0f}"}
    leave(redis_db, "completed", "5", 1795489204123, fields)

    assert not heard(redis_db, TODAY_AT_NOON).done


@pytest.mark.parametrize("key", ["completed", "failed", "wait", "active", "delayed", "prioritized", "meta", "events"])
def test_a_key_of_another_type_is_told_and_opens_nothing(redis_db: redis.Redis, key: str) -> None:
    if key != "completed":
        leave(redis_db, "completed", JOB_ID, 1795489204123, SOUND)
    redis_db.set(f"{KEYS}{key}", "what")

    verdict = heard(redis_db, TODAY_AT_NOON)

    assert (verdict.done, only_signal(verdict).state) == (False, "unreachable")
    assert f"{KEYS}{key}: WRONGTYPE" in verdict.clauses[1]


def test_a_job_that_is_no_hash_hides_no_other(redis_db: redis.Redis) -> None:
    leave(redis_db, "completed", JOB_ID, 1795489204123, SOUND)
    leave(redis_db, "completed", "other", 1795489204200, {})
    redis_db.set(f"{KEYS}other", "what")

    assert heard(redis_db, TODAY_AT_NOON).done


def test_odd_data_of_a_job_that_has_not_ended_keeps_the_gate_closed(redis_db: redis.Redis) -> None:
    leave(redis_db, "completed", JOB_ID, 1795489204123, SOUND)
    redis_db.rpush(f"{KEYS}active", b"again\xff")
    redis_db.hset(f"{KEYS}".encode() + b"again\xff", mapping={"name": "cleanup-expired-messages", "processedOn": "?"})

    assert only_signal(heard(redis_db, TODAY_AT_NOON)).state == "running"


def test_the_reason_of_a_failure_is_one_short_line_without_control_characters(redis_db: redis.Redis) -> None:
    reason = "\n\x1b[2Jno \x07redis://:secret@cache here" + "!" * 500 + "\nstack"
    leave(redis_db, "failed", JOB_ID, 1795489204123, {**SOUND, "failedReason": reason})

    signal = only_signal(heard(redis_db, TODAY_AT_NOON))

    assert signal.state == "failed"
    assert signal.detail is not None
    assert signal.detail.startswith("[2Jno redis://…@cache here!!!")
    assert len(signal.detail) <= 200


def test_a_later_try_decides_over_an_earlier_one(redis_db: redis.Redis) -> None:
    leave(redis_db, "completed", JOB_ID, 1795489204123, SOUND)
    by_hand = {"name": "cleanup-expired-messages", "processedOn": "1795496400000", "finishedOn": "1795496460000"}
    leave(redis_db, "failed", "17", 1795496460000, by_hand)

    assert only_signal(heard(redis_db, TODAY_AT_NOON)).state == "failed"

    leave(
        redis_db,
        "completed",
        "18",
        1795496560000,
        {**by_hand, "processedOn": "1795496500000"} | {"finishedOn": "1795496560000"},
    )

    assert heard(redis_db, TODAY_AT_NOON).done


def test_a_job_that_is_planned_for_later_today_undoes_no_success_until_it_is_due(redis_db: redis.Redis) -> None:
    leave(redis_db, "completed", JOB_ID, 1795489204123, SOUND)
    later = DUE + timedelta(hours=12)
    milliseconds = 1795489200000 + 12 * 3_600_000
    made = {"name": "cleanup-expired-messages", "timestamp": "1795489200100"}
    leave(redis_db, "delayed", f"repeat:daily-cleanup:{milliseconds}", milliseconds * 4096, made)

    assert heard(redis_db, TODAY_AT_NOON).done
    assert only_signal(heard(redis_db, later + MOMENT)).state == "waiting"


def test_a_report_counts_while_a_job_is_only_planned_for_later_or_was_never_taken(redis_db: redis.Redis) -> None:
    due = 1795489200000 + 12 * 3_600_000
    leave(redis_db, "delayed", f"repeat:daily-cleanup:{due}", due * 4096, {"name": "cleanup-expired-messages"})
    assert heard(redis_db, TODAY_AT_NOON, reported=DUE + MOMENT).done
    assert heard(redis_db, instant_of(due) + MOMENT, reported=DUE + MOMENT).done

    leave(redis_db, "failed", JOB_ID, 1795489204123, SOUND)
    assert not heard(redis_db, TODAY_AT_NOON, reported=DUE + timedelta(seconds=4)).done
    assert heard(redis_db, TODAY_AT_NOON, reported=DUE + MOMENT).done


def test_an_overdue_job_that_ran_today_is_yesterdays(redis_db: redis.Redis) -> None:
    leave(redis_db, "completed", "repeat:daily-cleanup:1795402800000", 1795489204123, SOUND)

    assert not heard(redis_db, TODAY_AT_NOON).done
    assert heard(redis_db, TODAY_AT_NOON, TODAY_AT_NOON.date() - DAY).done


# Many other jobs in the queue.


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time to look at all of it, however slow the machine is."""
    monkeypatch.setattr(bullmq, "_LONGEST_READ_S", 60.0)
    monkeypatch.setattr(redis_client, "LONGEST_LOOK_S", 60.0)


def crowd(connection: redis.Redis, place: str, count: int, first: int = 1795492800000) -> None:
    """Put other jobs there, one a millisecond from `first` on (04:00), as the newest."""
    put = "zadd', KEYS[1], ARGV[1] + i, 'other-' .. i" if place in ("completed", "failed") else "lpush', KEYS[1], i"
    fill = f"for i = 1, {count} do redis.call('{put}) end"
    connection.eval(fill, 1, f"{KEYS}{place}", str(first))


@pytest.mark.usefixtures("unhurried")
@pytest.mark.parametrize(("place", "state"), [("failed", "failed"), ("active", "running"), ("wait", "waiting")])
def test_a_newer_attempt_is_found_among_many_other_jobs(redis_db: redis.Redis, place: str, state: str) -> None:
    leave(redis_db, "completed", JOB_ID, 1795489204123, SOUND)
    newer = {"name": "cleanup-expired-messages", "timestamp": "1795490000000", "processedOn": "1795490000100"}
    if place == "wait":
        del newer["processedOn"]
    crowd(redis_db, place, 1500)
    if place == "failed":
        leave(redis_db, place, "17", 1795490001000, newer)
    else:
        redis_db.lpush(f"{KEYS}{place}", "17")
        redis_db.hset(f"{KEYS}17", mapping=newer)  # type: ignore[arg-type]  # of text
    crowd(redis_db, place, 1500)

    assert only_signal(heard(redis_db, TODAY_AT_NOON)).state == state


@pytest.mark.usefixtures("unhurried")
@pytest.mark.parametrize("place", ["failed", "active", "wait"])
def test_where_a_newer_attempt_may_hide_no_success_counts_and_that_is_told(redis_db: redis.Redis, place: str) -> None:
    leave(redis_db, "completed", JOB_ID, 1795489204123, SOUND)
    crowd(redis_db, place, 10_500)

    verdict = heard(redis_db, TODAY_AT_NOON)

    assert (verdict.done, only_signal(verdict).state) == (False, "unknown")
    assert verdict.clauses == (
        f"BullMQ's queue has so many jobs ({place}) that a newer attempt than its last success may be among them",
    )
    assert heard(redis_db, TODAY_AT_NOON, reported=DUE + MOMENT).done


@pytest.mark.usefixtures("unhurried")
def test_a_success_that_is_newer_than_all_that_was_not_looked_at_counts(redis_db: redis.Redis) -> None:
    leave(redis_db, "completed", JOB_ID, 1795489204123, SOUND)
    for place in ("completed", "failed"):
        crowd(redis_db, place, 60_000, first=1795480000000)

    assert heard(redis_db, TODAY_AT_NOON).done


def test_without_the_time_to_look_at_all_jobs_no_success_counts(
    redis_db: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(redis_db, "completed", JOB_ID, 1795489204123, SOUND)
    crowd(redis_db, "failed", 10)
    monkeypatch.setattr(bullmq, "_LONGEST_READ_S", 0)

    assert "so many jobs (failed) that a newer attempt" in heard(redis_db, TODAY_AT_NOON).clauses[0]


def tell(connection: redis.Redis, moment: int, event: str, job: str, **more: str) -> None:
    """Add an entry to the stream of events."""
    told: dict[Any, Any] = {"event": event, "jobId": job, **more}
    connection.xadd(f"{KEYS}events", told, id=f"{moment}-0")


@pytest.mark.usefixtures("unhurried")
def test_a_job_that_was_removed_is_found_behind_all_the_events_that_redis_keeps(
    redis_db: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell(redis_db, 1795489200000, "added", "17", name="cleanup-expired-messages")
    tell(redis_db, 1795489200100, "active", "17", prev="waiting")
    tell(redis_db, 1795489204123, "completed", "17", returnvalue="null", prev="active")
    fill = (
        "for i = 1, 10000 do redis.call('xadd', KEYS[1], '1795492800000-' .. i,"
        " 'event', 'completed', 'jobId', i, 'returnvalue', 'null', 'prev', 'active') end"
    )
    redis_db.eval(fill, 1, f"{KEYS}events")

    assert heard(redis_db, TODAY_AT_NOON).done

    monkeypatch.setattr(bullmq, "_LONGEST_READ_S", 0)
    assert "BullMQ's queue has so many jobs (events)" in heard(redis_db, TODAY_AT_NOON).clauses[1]
