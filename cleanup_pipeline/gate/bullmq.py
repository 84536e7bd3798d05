"""What BullMQ's queue in Redis tells about message cleanup: read only, nothing of chat-service changes.

A job is looked for in every place where BullMQ keeps one, and the place decides. The hash only tells of the last try,
that of a job which was promoted and planned anew too: it has to be continued where it began and did not end since. The
places and the hashes are read one after the other, and a job may move in between: then the older answer stands until
the next look.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from itertools import takewhile
from typing import Any, Literal

from cleanup_pipeline.gate.day import at, next_day, utc_day
from cleanup_pipeline.gate.redis_client import Command, RedisUnavailable, Transact, ask
from cleanup_pipeline.gate.signals import CLOCK_SKEW, Signal, attempt_day, one_line

URL_VARIABLE = "MESSAGE_CLEANUP_REDIS_URL"
QUEUE = "after-hours-message-cleanup"
SCHEDULER = "daily-cleanup"
JOB = "cleanup-expired-messages"

_PREFIX = "bull"
_PREFIX_IN_CLUSTER = "{bull}"
_SCHEDULED = re.compile(r"repeat:(.+):([0-9]+)")
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?(e[+-]?[0-9]+)?")
# Of each place, and of the stream of events: other jobs may share the queue.
_MOST = 500
# A delayed job's score is its instant in milliseconds times this, plus a counter.
DELAY_SCALE = 4096
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Place = Literal["completed", "failed", "delayed", "prioritized", "active", "wait", "paused"]
_FINISHED: tuple[Place, ...] = ("completed", "failed")
_LISTS: tuple[Place, ...] = ("active", "wait", "paused")
_FIELDS = ("name", "timestamp", "delay", "processedOn", "finishedOn", "failedReason")


@dataclass(frozen=True, slots=True)
class MessageCleanupJobs:
    """Jobs of message cleanup in BullMQ: those of its scheduler, and those of its name that somebody added."""

    url: str = field(repr=False)
    prefix: str | None = None

    source: Literal["bullmq"] = "bullmq"

    def signals(self, now: datetime) -> Sequence[Signal]:
        """Return the attempts since yesterday, and what is planned up to tomorrow."""
        since = at(utc_day(now - timedelta(days=1)), time(0))

        def questions(transact: Transact, *, clustered: bool) -> "_Queue":
            return _read(transact, key_prefix(self.prefix, QUEUE, clustered=clustered), since, now)

        try:
            queue = ask(self.url, questions, URL_VARIABLE)
        except RedisUnavailable as unavailable:
            return [Signal(source="bullmq", state="unreachable", detail=str(unavailable))]
        return list(_signals(queue, now))


def key_prefix(prefix: str | None, queue: str, *, clustered: bool) -> bytes:
    """Return what the keys of a queue begin with."""
    return f"{prefix or (_PREFIX_IN_CLUSTER if clustered else _PREFIX)}:{queue}:".encode()


def instant(milliseconds: float | None) -> datetime | None:
    """Read an instant as JavaScript counts it; a number that is none is None."""
    if milliseconds is None or not math.isfinite(milliseconds):
        return None
    try:
        return _EPOCH + timedelta(milliseconds=int(milliseconds))
    except OverflowError:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """A job's id and hash. `known`: there is a hash. Instants are None where they are absent or can't be read."""

    id: str
    known: bool = False
    name: str = ""
    made: datetime | None = None
    delay: timedelta | None = None
    processed: datetime | None = None
    finished: datetime | None = None
    reason: str | None = None
    locked: bool = False
    odd: tuple[str, ...] = ()

    @property
    def ours(self) -> bool:
        """Whether it is message cleanup."""
        scheduled = _SCHEDULED.fullmatch(self.id)
        return self.name == JOB or (scheduled is not None and scheduled[1] == SCHEDULER)

    @property
    def interrupted(self) -> bool:
        """Whether its last try began and has not ended: it is on, or failed and is to be repeated.

        Not told by the reason of a failure, which may be empty and stays in the hash of a job that is planned anew.
        """
        if self.processed is None or self.finished is None:
            return self.processed is not None or "processedOn" in self.odd
        return self.processed > self.finished

    @property
    def scheduled(self) -> datetime | None:
        """The instant that it was scheduled for, which its id tells."""
        scheduled = _SCHEDULED.fullmatch(self.id)
        return instant(_number(scheduled[2])) if scheduled else None


@dataclass(frozen=True, slots=True)
class _Event:
    """An entry of the queue's stream of events, by Redis' clock."""

    kind: str
    job: str
    happened: datetime
    text: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Queue:
    """What was read of the queue: who is where with which score, the jobs' hashes, the events, newest first.

    `long` are the places of which only a part was read.
    """

    paused: bool
    places: Mapping[Place, Mapping[str, float | None]]
    jobs: Mapping[str, _Job]
    events: Sequence[_Event]
    long: Sequence[str]

    def jobs_in(self, *places: Place) -> Iterator[tuple[_Job, float | None]]:
        """Our jobs in those places, with their scores."""
        for place in places:
            for name, score in self.places[place].items():
                job = self.jobs[name]
                if job.ours:
                    yield job, score


# Reading.


def _read(transact: Transact, prefix: bytes, since: datetime, now: datetime) -> _Queue:
    """Read the places in one transaction, the hashes of who is there in another."""
    end = at(next_day(next_day(utc_day(now))), time(0))
    first = _milliseconds(since)
    until = f"({_milliseconds(end) * DELAY_SCALE}"
    commands: list[Command] = [
        ("HGET", prefix + b"meta", "paused"),
        ("XREVRANGE", prefix + b"events", "+", first, "COUNT", _MOST),
        *(
            ("ZREVRANGEBYSCORE", prefix + place.encode(), "+inf", first, "WITHSCORES", "LIMIT", 0, _MOST)
            for place in _FINISHED
        ),
        ("ZRANGEBYSCORE", prefix + b"delayed", "-inf", until, "WITHSCORES", "LIMIT", 0, _MOST),
        ("ZRANGE", prefix + b"prioritized", 0, _MOST - 1, "WITHSCORES"),
        # Both ends: the one that is next, and the one that came last.
        *(("LRANGE", prefix + place.encode(), 0, _MOST - 1) for place in _LISTS),
        *(("LRANGE", prefix + place.encode(), -_MOST, -1) for place in _LISTS),
    ]
    paused, events, completed, failed, delayed, prioritized, *lists = transact(commands)
    heads, tails = lists[: len(_LISTS)], lists[len(_LISTS) :]
    scored: dict[Place, dict[bytes, float | None]] = {
        "completed": _scored(completed),
        "failed": _scored(failed),
        "delayed": _scored(delayed),
        "prioritized": _scored(prioritized),
    }
    listed: dict[Place, dict[bytes, float | None]] = {
        place: dict.fromkeys([*head, *tail]) for place, head, tail in zip(_LISTS, heads, tails, strict=True)
    }
    members = {**scored, **listed}
    told = [event for entry in events if (event := _event(entry))]
    ours_once = {event.job.encode() for event in told if _Job(id=event.job, name=event.text.get("name", "")).ours}
    ids = list(dict.fromkeys([*(name for place in members.values() for name in place), *ours_once]))
    return _Queue(
        paused=paused == b"1",
        places={place: {_text(name): score for name, score in of.items()} for place, of in members.items()},
        jobs=_jobs(transact, prefix, ids),
        events=told,
        long=[place for place, of in members.items() if len(of) >= _MOST],
    )


def _jobs(transact: Transact, prefix: bytes, ids: Sequence[bytes]) -> dict[str, _Job]:
    """Read the jobs' hashes; where there is none only the id is known."""
    if not ids:
        return {}
    commands: list[Command] = [("HMGET", prefix + name, *_FIELDS) for name in ids]
    commands += [("EXISTS", prefix + name + b":lock") for name in ids]
    # One key of the wrong type must not hide the others.
    replies = transact(commands, tolerant=True)
    rows, locks = replies[: len(ids)], replies[len(ids) :]
    return {_text(name): _job(_text(name), row, lock) for name, row, lock in zip(ids, rows, locks, strict=True)}


def _job(name: str, row: "Sequence[bytes | None] | Exception", lock: object) -> _Job:
    if isinstance(row, Exception) or not any(row):
        return _Job(id=name)
    values = {of: None if raw is None else _text(raw) for of, raw in zip(_FIELDS, row, strict=True)}
    instants = {of: instant(_number(values[of])) for of in ("timestamp", "processedOn", "finishedOn")}
    return _Job(
        id=name,
        known=True,
        name=values["name"] or "",
        made=instants["timestamp"],
        delay=_span(_number(values["delay"])),
        processed=instants["processedOn"],
        finished=instants["finishedOn"],
        reason=None if values["failedReason"] is None else one_line(values["failedReason"]),
        locked=lock == 1,
        odd=tuple(of for of, moment in instants.items() if moment is None and values[of] is not None),
    )


def _event(entry: Sequence[Any]) -> _Event | None:
    stamp, fields = entry
    happened = instant(_number(_text(stamp).partition("-")[0]))
    text = {_text(name): _text(value) for name, value in zip(fields[::2], fields[1::2], strict=True)}
    if happened is None or "jobId" not in text:
        return None
    return _Event(text.get("event", ""), text["jobId"], happened, text)


def _scored(flat: Sequence[bytes]) -> dict[bytes, float | None]:
    return {name: _number(_text(score)) for name, score in zip(flat[::2], flat[1::2], strict=True)}


def _number(text: str | None) -> float | None:
    """Read a number as JavaScript and Redis write one; Python itself would read more."""
    return float(text) if text is not None and _NUMBER.fullmatch(text) else None


def _span(milliseconds: float | None) -> timedelta | None:
    moment = instant(milliseconds)
    return None if moment is None else moment - _EPOCH


def _milliseconds(of: datetime) -> int:
    return (of - _EPOCH) // timedelta(milliseconds=1)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


# Understanding.


def _signals(queue: _Queue, now: datetime) -> Iterator[Signal]:
    yield from (_completed(job, score, queue, now) for job, score in queue.jobs_in("completed"))
    yield from (_failed(job, score, now) for job, score in queue.jobs_in("failed"))
    yield from (_active(job, now) for job, _ in queue.jobs_in("active"))
    waiting = [_waiting(job, None, queue, now) for job, _ in queue.jobs_in("wait", "prioritized", "paused")]
    waiting += [_waiting(job, _due(score), queue, now) for job, score in queue.jobs_in("delayed")]
    yield from waiting
    yield from _gone(queue, now)
    if queue.paused and not any(signal.day == utc_day(now) for signal in waiting):
        yield _untold("BullMQ's queue is paused")
    if queue.long:
        yield _untold(f"of BullMQ's jobs only {_MOST} each were looked at in {', '.join(queue.long)}")


def _completed(job: _Job, score: float | None, queue: _Queue, now: datetime) -> Signal:
    """Only a job that is sound in every part has succeeded."""
    finished = instant(score)
    elsewhere = {place for place, of in queue.places.items() if job.id in of} - {"completed"}
    if not job.known:
        return _does_not_count(job, "its hash is missing or no hash")
    if odd := (*job.odd, *(["finishedOn"] if job.finished is None else [])):
        return _does_not_count(job, f"its {odd[0]} can't be read")
    if finished is None or (_SCHEDULED.fullmatch(job.id) and job.scheduled is None):
        return _does_not_count(job, "its score or its id is no instant")
    if finished > now + CLOCK_SKEW:
        return _does_not_count(job, "it finished in the future")
    # One that was planned anew may have failed since, or be on.
    if job.finished != finished and not ("failed" in elsewhere and job.finished and job.finished > finished):
        return _does_not_count(job, "its finishedOn is not its score")
    if job.processed and job.processed > finished and not elsewhere:
        return _does_not_count(job, "it began after it had ended")
    return _ended("succeeded", job, finished, _started(job, finished))


def _failed(job: _Job, score: float | None, now: datetime) -> Signal:
    finished = instant(score) or now
    return _ended("failed", job, finished, _started(job, finished), job.reason)


def _started(job: _Job, finished: datetime) -> datetime | None:
    """Return when the try began that ended then, unless the hash tells of a later try."""
    return job.processed if job.finished == finished and job.processed and job.processed <= finished else None


def _ended(
    state: Literal["succeeded", "failed"],
    job: _Job,
    finished: datetime,
    started: datetime | None,
    detail: str | None = None,
) -> Signal:
    return Signal(
        source="bullmq",
        state=state,
        at=finished,
        # It started when it finished at the latest.
        day=attempt_day(job.scheduled, started or finished, finished),
        started=started,
        detail=detail or None,
        attempt=job.id,
        scheduled=job.scheduled,
    )


def _active(job: _Job, now: datetime) -> Signal:
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


def _waiting(job: _Job, due: datetime | None, queue: _Queue, now: datetime) -> Signal:
    """Return what has not started, or is to be tried again; without `due` it is due already.

    What is planned for later today is no attempt yet: it comes behind every attempt of the day. When it was planned
    would not do for that, since BullMQ plans it when it starts the one before.
    """
    retrying = job.interrupted
    starts = max(due or now, now)
    is_due = starts == now
    details = [job.reason] if retrying else []
    if queue.paused:
        details.append("the queue is paused")
    return Signal(
        source="bullmq",
        state="retrying" if retrying else "waiting",
        at=due or (None if retrying else min(job.scheduled or job.made or now, now)),
        day=attempt_day(job.scheduled, job.processed if retrying and job.processed else starts, starts),
        started=job.processed if retrying else None,
        ended=_failed_before(job, due, queue, now) if retrying else None,
        queued="now" if is_due else None if retrying else "later",
        detail="; ".join(detail for detail in details if detail) or None,
    )


def _failed_before(job: _Job, due: datetime | None, queue: _Queue, now: datetime) -> datetime | None:
    """Return when the try failed after which the job is to be tried again, if that is known.

    It was put off from that moment; when it was taken up from there again, only the events still tell.
    """
    if job.processed is None:
        return None
    put_off = due - job.delay if due and job.delay else None
    if put_off and job.processed <= put_off <= now:
        return put_off
    since = list(takewhile(lambda event: event.kind != "active", (of for of in queue.events if of.job == job.id)))
    return since[-1].happened if since else None


def _due(score: float | None) -> datetime | None:
    return None if score is None or not math.isfinite(score) else instant(score // DELAY_SCALE)


def _gone(queue: _Queue, now: datetime) -> Iterator[Signal]:
    """Tell of jobs that were removed when they ended: only the events still have them."""
    somewhere = {name for place in queue.places.values() for name in place}
    names = {event.job: event.text["name"] for event in queue.events if "name" in event.text}
    for name in dict.fromkeys(event.job for event in queue.events):
        job = _Job(id=name, name=names.get(name, ""))
        read = queue.jobs.get(name)
        if job.ours and name not in somewhere and read is not None and not read.known:
            yield from _last_end(job, [event for event in queue.events if event.job == name], now)


def _last_end(job: _Job, events: Sequence[_Event], now: datetime) -> Iterable[Signal]:
    for place, event in enumerate(events):
        if event.kind not in _FINISHED:
            continue
        if event.happened > now + CLOCK_SKEW:
            return [_does_not_count(job, "it finished in the future")]
        started = next((earlier.happened for earlier in events[place:] if earlier.kind == "active"), None)
        state: Literal["succeeded", "failed"] = "succeeded" if event.kind == "completed" else "failed"
        reason = one_line(event.text.get("failedReason", "")) if state == "failed" else None
        return [_ended(state, job, event.happened, started, reason)]
    return []


def _does_not_count(job: _Job, why: str) -> Signal:
    return _untold(one_line(f"BullMQ's completed job {job.id} does not count, {why}"))


def _untold(detail: str) -> Signal:
    return Signal(source="bullmq", state="unknown", detail=detail)
