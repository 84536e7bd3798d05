"""Reading BullMQ's queue in Redis: read only, message cleanup's jobs alone, within limits of number and time."""

import math
import re
import time as clocks
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Any, Literal

from cleanup_pipeline.gate.day import at, next_day, utc_day
from cleanup_pipeline.gate.redis_client import Command, Transact
from cleanup_pipeline.gate.signals import one_line

SCHEDULER = "daily-cleanup"
JOB = "cleanup-expired-messages"

_PREFIX = "bull"
_PREFIX_IN_CLUSTER = "{bull}"
_SCHEDULED = re.compile(r"repeat:(.+):([0-9]+)")
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?(e[+-]?[0-9]+)?")
# Of each place: other jobs may share the queue.
_MOST = 10_000
# In one reply.
_AT_ONCE = 1_000
# A delayed job's score is its instant in milliseconds times this, plus a counter.
_DELAY_SCALE = 4096
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Place = Literal["active", "wait", "paused", "prioritized", "delayed", "failed", "completed"]
FINISHED: tuple[Place, ...] = ("completed", "failed")
_LISTS: tuple[Place, ...] = ("active", "wait", "paused")
_FIELDS = ("name", "timestamp", "delay", "processedOn", "finishedOn", "failedReason")


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


def due(score: float | None) -> datetime | None:
    """Read when a delayed job is due."""
    return None if score is None or not math.isfinite(score) else instant(score // _DELAY_SCALE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
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
        """Whether it is message cleanup: of its scheduler, or of its name and added by somebody."""
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
    def has_schedule(self) -> bool:
        """Whether its id tells when it was scheduled for, be it an instant or not."""
        return _SCHEDULED.fullmatch(self.id) is not None

    @property
    def scheduled(self) -> datetime | None:
        """The instant that it was scheduled for, which its id tells."""
        scheduled = _SCHEDULED.fullmatch(self.id)
        return instant(_number(scheduled[2])) if scheduled else None


@dataclass(frozen=True, slots=True)
class Event:
    """An entry of the queue's stream of events, by Redis' clock."""

    id: str
    kind: str
    job: str
    happened: datetime
    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """Our jobs in a queue: who is where with which score, the jobs' hashes, the events, newest first.

    `unseen` has the places, and `events`, of which only a part was looked at: what was not seen there happened before
    that instant; None: whenever.
    """

    paused: bool
    places: Mapping[Place, Mapping[str, float | None]]
    jobs: Mapping[str, Job]
    events: Sequence[Event]
    unseen: Mapping[str, datetime | None]

    def jobs_in(self, *places: Place) -> Iterator[tuple[Job, float | None]]:
        """Return the jobs in those places, with their scores."""
        for place in places:
            for name, score in self.places[place].items():
                yield self.jobs[name], score

    def events_of(self, job: str) -> Sequence[Event]:
        """Return the events of one job, newest first."""
        return [event for event in self.events if event.job == job]


def read(transact: Transact, prefix: bytes, since: datetime, now: datetime, until: float) -> Queue:
    """Read the places in one transaction, then whose jobs are there, then the hashes of ours.

    From `until` on, an instant of the monotonic clock, only what is told by the ids alone is found. Raises what
    `transact` raises.
    """
    paused, newest, members, unseen = _places(transact, prefix, since, now)
    places: dict[Place, dict[bytes, float | None]] = {}
    for place, scores in members.items():
        ours, looked_at = _ours(transact, prefix, list(scores), until)
        places[place] = {name: scores[name] for name in ours}
        if looked_at < len(scores):
            unseen[place] = instant(list(scores.values())[looked_at]) if place in FINISHED else None
    events, cut = _events(transact, prefix, since, newest, until)
    if cut:
        unseen["events"] = events[-1].happened if events else None
    names = {event.job: event.name for event in events if event.name}
    ours_once = {of for of in {event.job for event in events} if Job(id=of, name=names.get(of, "")).ours}
    ids = dict.fromkeys([*(name for of in places.values() for name in of), *(of.encode() for of in ours_once)])
    jobs = _jobs(transact, prefix, list(ids))
    return Queue(
        paused=paused,
        places={place: {_text(name): score for name, score in of.items()} for place, of in places.items()},
        jobs=jobs,
        events=[event for event in events if event.job in jobs],
        unseen=unseen,
    )


Members = dict[Place, dict[bytes, float | None]]


def _places(
    transact: Transact, prefix: bytes, since: datetime, now: datetime
) -> tuple[bool, list[Any], Members, dict[str, datetime | None]]:
    """Return whether the queue is paused, the newest events, who is where, and of which places that is a part."""
    end = at(next_day(next_day(utc_day(now))), time(0))
    first = _milliseconds(since)
    before = f"({_milliseconds(end) * _DELAY_SCALE}"
    half = _MOST // 2
    commands: list[Command] = [
        ("HGET", prefix + b"meta", "paused"),
        _newest_events(prefix, first, "+"),
        *(
            ("ZREVRANGEBYSCORE", prefix + place.encode(), "+inf", first, "WITHSCORES", "LIMIT", 0, _MOST + 1)
            for place in FINISHED
        ),
        ("ZRANGEBYSCORE", prefix + b"delayed", "-inf", before, "WITHSCORES", "LIMIT", 0, _MOST + 1),
        ("ZRANGE", prefix + b"prioritized", 0, _MOST, "WITHSCORES"),
        # Both ends: the one that is next, and the one that came last.
        *(("LRANGE", prefix + place.encode(), 0, half - 1) for place in _LISTS),
        *(("LRANGE", prefix + place.encode(), -half, -1) for place in _LISTS),
        *(("LLEN", prefix + place.encode()) for place in _LISTS),
    ]
    paused, newest, completed, failed, delayed, prioritized, *lists = transact(commands)
    of_lists = zip(_LISTS, lists[:3], lists[3:6], lists[6:], strict=True)
    unseen: dict[str, datetime | None] = {}
    # What may keep the gate closed comes first, while there is time.
    members: Members = {}
    for place, head, tail, length in of_lists:
        members[place] = dict.fromkeys([*head, *tail])
        if length > _MOST:
            unseen[place] = None
    sets: list[tuple[Place, Any]] = [
        ("prioritized", prioritized),
        ("delayed", delayed),
        ("failed", failed),
        ("completed", completed),
    ]
    for place, flat in sets:
        members[place] = _scored(flat[: 2 * _MOST])
        if len(flat) > 2 * _MOST:
            unseen[place] = instant(_number(_text(flat[-1]))) if place in FINISHED else None
    return paused == b"1", newest, members, unseen


def _ours(transact: Transact, prefix: bytes, names: Sequence[bytes], until: float) -> tuple[list[bytes], int]:
    """Return which of these jobs are ours, and how many were looked at; of the others only the ids were."""
    ours: list[bytes] = []
    for start in range(0, len(names), _AT_ONCE):
        if clocks.monotonic() >= until:
            return ours + [name for name in names[start:] if Job(id=_text(name)).ours], start
        some = names[start : start + _AT_ONCE]
        # One key of the wrong type must not hide the others.
        called = transact([("HGET", prefix + name, "name") for name in some], tolerant=True)
        ours += [
            name
            for name, of in zip(some, called, strict=True)
            if Job(id=_text(name), name=_text(of) if isinstance(of, bytes) else "").ours
        ]
    return ours, len(names)


def _events(
    transact: Transact, prefix: bytes, since: datetime, newest: list[Any], until: float
) -> tuple[list[Event], bool]:
    """Return the events, newest first, and whether there was no time for the older ones."""
    events = [event for entry in newest if (event := _event(entry))]
    page = newest
    while len(page) == _AT_ONCE:
        if clocks.monotonic() >= until:
            return events, True
        (page,) = transact([_newest_events(prefix, _milliseconds(since), _before(_text(page[-1][0])))])
        events += [event for entry in page if (event := _event(entry))]
    return events, False


def _newest_events(prefix: bytes, first: int, last: str) -> Command:
    return ("XREVRANGE", prefix + b"events", last, first, "COUNT", _AT_ONCE)


def _before(entry: str) -> str:
    """Return the id that comes just before this one in a stream; Redis 5 knows no open ranges."""
    milliseconds, _, number = entry.partition("-")
    return f"{milliseconds}-{int(number) - 1}" if int(number) else str(int(milliseconds) - 1)


def _jobs(transact: Transact, prefix: bytes, ids: Sequence[bytes]) -> dict[str, Job]:
    """Read the jobs' hashes; where there is none only the id is known."""
    if not ids:
        return {}
    commands: list[Command] = [("HMGET", prefix + name, *_FIELDS) for name in ids]
    commands += [("EXISTS", prefix + name + b":lock") for name in ids]
    replies = transact(commands, tolerant=True)
    rows, locks = replies[: len(ids)], replies[len(ids) :]
    return {_text(name): _job(_text(name), row, lock) for name, row, lock in zip(ids, rows, locks, strict=True)}


def _job(name: str, row: "Sequence[bytes | None] | Exception", lock: object) -> Job:
    if isinstance(row, Exception) or not any(row):
        return Job(id=name)
    values = {of: None if raw is None else _text(raw) for of, raw in zip(_FIELDS, row, strict=True)}
    instants = {of: instant(_number(values[of])) for of in ("timestamp", "processedOn", "finishedOn")}
    return Job(
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


def _event(entry: Sequence[Any]) -> Event | None:
    stamp, fields = entry
    happened = instant(_number(_text(stamp).partition("-")[0]))
    values = dict(zip(fields[::2], fields[1::2], strict=True))
    if happened is None or b"jobId" not in values:
        return None
    kind, job, name, reason = (_text(values.get(of, b"")) for of in (b"event", b"jobId", b"name", b"failedReason"))
    return Event(_text(stamp), kind, job, happened, name, one_line(reason))


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
