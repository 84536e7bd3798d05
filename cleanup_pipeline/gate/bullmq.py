"""What BullMQ's queue in Redis tells about message cleanup: nothing of chat-service changes.

A job is looked for in every place where BullMQ keeps one, and the place decides. The hash only tells of the last try,
that of a job which was promoted and planned anew too: it has to be continued where it began and did not end since. The
places and the hashes are read one after the other, and a job may move in between: then the older answer stands until
the next look.
"""

import time as clocks
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, time, timedelta
from itertools import takewhile
from typing import Literal

from cleanup_pipeline.gate.day import at, utc_day
from cleanup_pipeline.gate.queue import FINISHED, Event, Job, Queue, due, instant, key_prefix, read
from cleanup_pipeline.gate.redis_client import RedisUnavailableError, Transact, ask
from cleanup_pipeline.gate.signals import CLOCK_SKEW, Signal, attempt_day, one_line

URL_VARIABLE = "MESSAGE_CLEANUP_REDIS_URL"
QUEUE = "after-hours-message-cleanup"

# A reply that is under way then still comes within the time of the whole look.
_LONGEST_READ_S = 1.5
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class MessageCleanupJobs:
    """Jobs of message cleanup in BullMQ: those of its scheduler, and those of its name that somebody added."""

    url: str = field(repr=False)
    prefix: str | None = None

    source: Literal["bullmq"] = "bullmq"

    def signals(self, now: datetime) -> Sequence[Signal]:
        """Return the attempts since yesterday, and what is planned up to tomorrow."""
        since = at(utc_day(now - timedelta(days=1)), time(0))
        until = clocks.monotonic() + _LONGEST_READ_S

        def questions(transact: Transact, *, clustered: bool) -> Queue:
            return read(transact, key_prefix(self.prefix, QUEUE, clustered=clustered), since, now, until)

        try:
            queue = ask(self.url, questions, URL_VARIABLE)
        except RedisUnavailableError as unavailable:
            return [Signal(source="bullmq", state="unreachable", detail=str(unavailable))]
        found = list(_signals(queue, now))
        return [*found, *_unseen(queue, found, now)]


def _signals(queue: Queue, now: datetime) -> Iterator[Signal]:
    yield from (_completed(job, score, queue, now) for job, score in queue.jobs_in("completed"))
    yield from (_failed(job, score, queue, now) for job, score in queue.jobs_in("failed"))
    yield from (_active(job, now) for job, _ in queue.jobs_in("active"))
    waiting = [_waiting(job, None, queue, now) for job, _ in queue.jobs_in("wait", "prioritized", "paused")]
    waiting += [_waiting(job, due(score), queue, now) for job, score in queue.jobs_in("delayed")]
    yield from waiting
    yield from _gone(queue, now)
    if queue.paused and not any(signal.day == utc_day(now) for signal in waiting):
        yield _untold("BullMQ's queue is paused")


def _unseen(queue: Queue, found: Iterable[Signal], now: datetime) -> Iterator[Signal]:
    """Tell of places that were too full to be looked at as a whole.

    Where a newer attempt than the day's success may be there, no success counts.
    """
    today = utc_day(now)
    succeeded = max((of.began for of in found if of.state == "succeeded" and of.day == today), default=_LONG_AGO)
    places = [
        place
        for place, before in queue.unseen.items()
        if place != "completed" and (before is None or before > succeeded)
    ]
    if places:
        said = "that a newer attempt than its last success may be among them"
        said = f"BullMQ's queue has so many jobs ({', '.join(places)}) {said}"
        yield Signal(source="bullmq", state="unknown", day=today, detail=said)
    elif queue.unseen:
        yield _untold(f"BullMQ's queue has so many jobs ({', '.join(queue.unseen)}) that not all were looked at")


def _completed(job: Job, score: float | None, queue: Queue, now: datetime) -> Signal:
    """Only a job that is sound in every part has succeeded."""
    finished = instant(score)
    elsewhere = {place for place, of in queue.places.items() if job.id in of} - {"completed"}
    if not job.known:
        return _does_not_count(job, "its hash is missing or no hash")
    if odd := (*job.odd, *(["finishedOn"] if job.finished is None else [])):
        return _does_not_count(job, f"its {odd[0]} can't be read")
    if finished is None or (job.has_schedule and job.scheduled is None):
        return _does_not_count(job, "its score or its id is no instant")
    if finished > now + CLOCK_SKEW:
        return _does_not_count(job, "it finished in the future")
    # One that was planned anew may have failed since, or be on.
    if job.finished != finished and not ("failed" in elsewhere and job.finished and job.finished > finished):
        return _does_not_count(job, "its finishedOn is not its score")
    if job.processed and job.processed > finished and not elsewhere:
        return _does_not_count(job, "it began after it had ended")
    return _ended("succeeded", job, finished, _started(job, finished), event=_end(queue, job, "completed"))


def _failed(job: Job, score: float | None, queue: Queue, now: datetime) -> Signal:
    finished = instant(score) or now
    failed = _ended("failed", job, finished, _started(job, finished), job.reason, _end(queue, job, "failed"))
    # Without a name: at the next look it would have another end.
    return failed if instant(score) else replace(failed, attempt=None)


def _end(queue: Queue, job: Job, kind: str) -> str | None:
    """Return the event of the end that left the job in its place: the last one of that kind."""
    return next((event.id for event in queue.events_of(job.id) if event.kind == kind), None)


def _started(job: Job, finished: datetime) -> datetime | None:
    """Return when the try began that ended then, unless the hash tells of a later try."""
    return job.processed if job.finished == finished and job.processed and job.processed <= finished else None


def _ended(
    state: Literal["succeeded", "failed"],
    job: Job,
    finished: datetime,
    started: datetime | None,
    detail: str | None = None,
    event: str | None = None,
) -> Signal:
    return Signal(
        source="bullmq",
        state=state,
        at=finished,
        # It started when it finished at the latest, and when it was made at the earliest.
        day=attempt_day(job.scheduled, started or (finished if job.scheduled else job.made), finished),
        started=started,
        detail=detail or None,
        attempt=job.id,
        event=event,
        scheduled=job.scheduled,
    )


def _active(job: Job, now: datetime) -> Signal:
    started = min(job.processed or job.scheduled or job.made or now, now)
    ended_meanwhile = job.finished is not None and job.finished >= started
    stalled = job.known and not job.locked and not ended_meanwhile
    return Signal(
        source="bullmq",
        state="running",
        at=started,
        day=attempt_day(job.scheduled, started, started),
        started=started,
        detail="its worker shows no sign of life (stalled)" if stalled else None,
    )


def _waiting(job: Job, planned: datetime | None, queue: Queue, now: datetime) -> Signal:
    """Return what has not started, or is to be tried again; without `planned` it is due already.

    What is planned for later today is no attempt yet: it comes behind every attempt of the day. When it was planned
    would not do for that, since BullMQ plans it when it starts the one before.
    """
    retrying = job.interrupted
    starts = max(planned or now, now)
    failed = _failed_before(job, planned, queue, now) if retrying else None
    is_due = starts == now
    details = [job.reason] if retrying else []
    if queue.paused:
        details.append("the queue is paused")
    return Signal(
        source="bullmq",
        state="retrying" if retrying else "waiting",
        at=planned or (None if retrying else min(job.scheduled or job.made or now, now)),
        day=attempt_day(job.scheduled, job.processed if retrying and job.processed else starts, starts),
        started=job.processed if retrying else None,
        ended=failed,
        queued="now" if is_due else None if retrying else "later",
        detail="; ".join(detail for detail in details if detail) or None,
        attempt=job.id if failed else None,
        scheduled=job.scheduled if failed else None,
    )


def _failed_before(job: Job, planned: datetime | None, queue: Queue, now: datetime) -> datetime | None:
    """Return when the try failed after which the job is to be tried again, if that is known.

    It was put off from that moment; when it was taken up from there again, only the events still tell.
    """
    if job.processed is None:
        return None
    put_off = planned - job.delay if planned and job.delay else None
    if put_off and job.processed <= put_off <= now:
        return put_off
    since = list(takewhile(lambda event: event.kind != "active", queue.events_of(job.id)))
    return since[-1].happened if since else None


def _gone(queue: Queue, now: datetime) -> Iterator[Signal]:
    """Tell of jobs that were removed when they ended: only the events still have them."""
    somewhere = {name for place in queue.places.values() for name in place}
    for job in queue.jobs.values():
        if job.id not in somewhere and not job.known:
            yield from _ends(job, queue.events_of(job.id), now)


def _ends(job: Job, events: Sequence[Event], now: datetime) -> Iterator[Signal]:
    for place, event in enumerate(events):
        if event.kind not in FINISHED:
            continue
        if event.happened > now + CLOCK_SKEW:
            yield _does_not_count(job, "it finished in the future")
            return
        started = next((earlier.happened for earlier in events[place:] if earlier.kind == "active"), None)
        state: Literal["succeeded", "failed"] = "succeeded" if event.kind == "completed" else "failed"
        reason = event.reason if state == "failed" else None
        yield _ended(state, job, event.happened, started, reason, event.id)


def _does_not_count(job: Job, why: str) -> Signal:
    return _untold(one_line(f"BullMQ's completed job {job.id} does not count, {why}"))


def _untold(detail: str) -> Signal:
    return Signal(source="bullmq", state="unknown", detail=detail)
