"""Signals: evidence about message cleanup, from several sources that each may be absent, late or wrong."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Literal, Protocol

Source = Literal["bullmq", "dagster_run", "materialization"]
State = Literal["succeeded", "running", "retrying", "failed", "waiting", "unknown", "unreachable"]

CLOCK_SKEW = timedelta(minutes=5)
"""How far the clock of whoever tells of an attempt may be ahead of ours."""

_LONGEST_LINE = 200
# What stands behind the name of a secret, to the line's end; and behind `Bearer`.
_SECRETS = (
    (
        re.compile(
            r"""((?:pass(?:word|wd|phrase)?|pwd|pw|secret|token|credentials?|[_-]key|apikey|authorization)"""
            r"""["']?\s*(?:=>|[=:]|(?=["']))\s*).*""",
            re.IGNORECASE,
        ),
        r"\1…",
    ),
    (re.compile(r"\b(bearer|basic)\s+\S+", re.IGNORECASE), r"\1 …"),
)
_LONG_AGO = datetime.min.replace(tzinfo=UTC)
_STILL_TO_COME = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """What one source says about one attempt of message cleanup, or that it knows of none (`unknown`, `unreachable`).

    `at` is when the attempt finished (succeeded, failed), started (running), will be tried (retrying) or is due
    (waiting). `day` is the UTC day that the attempt belongs to, see `attempt_day`; None where there is no attempt, and
    `unknown` has one where a newer attempt of that day may have been overlooked.
    `started` is when it started or, for one that has not, when it was made. `ended` is when the try failed that is to
    be retried, where that is known. `queued` tells of one that a queue holds whether it may be taken now or only later.
    `detail` is one line for a person. `attempt` is the source's own name of an attempt that has ended, `event` its name
    of that end, `scheduled` what it was scheduled for. `echo_of` is the source from which we recorded it ourselves.
    """

    source: Source
    state: State
    at: datetime | None = None
    day: date | None = None
    started: datetime | None = None
    ended: datetime | None = None
    queued: Literal["now", "later"] | None = None
    detail: str | None = None
    attempt: str | None = None
    event: str | None = None
    scheduled: datetime | None = None
    echo_of: Source | None = None

    @property
    def began(self) -> datetime:
        """When it started, or the only instant that is known of it: orders the attempts of one source.

        What may be taken now comes behind all that has started, what is only planned before.
        """
        if self.queued:
            return _STILL_TO_COME if self.queued == "now" else _LONG_AGO
        return self.started or self.at or _LONG_AGO

    @property
    def _happened(self) -> datetime:
        """The last that is known to have happened to it; nothing has to what a queue holds and nobody has taken."""
        if self.state == "waiting" and self.queued:
            return _LONG_AGO
        if self.state == "retrying":
            return self.ended or self.started or self.at or _LONG_AGO
        return self.at or self.began

    def is_newer_than(self, other: "Signal") -> bool:
        """Whether this attempt is a later one than the other, which may be another source's.

        By their starts where both are known and differ. Else by the last that happened to each: two sources may tell of
        the same attempt, one of them only its end.
        """
        if self.started and other.started and self.started != other.started:
            return self.started > other.started
        return self._happened > other._happened

    def to_json(self) -> dict[str, str | None]:
        """Return the signal as `status --json` prints it."""
        at = self.at.astimezone(UTC).isoformat(timespec="milliseconds") if self.at else None
        return {"source": self.source, "state": self.state, "at": at}


class SignalSource(Protocol):
    """Somewhere that knows about message cleanup."""

    @property
    def source(self) -> Source:
        """The name of the source."""
        ...

    def signals(self, now: datetime) -> Sequence[Signal]:
        """Return the attempts that it knows of today and yesterday, in any order; none: no trace. May raise."""
        ...


def listen(sources: Iterable[SignalSource], now: datetime) -> tuple[Signal, ...]:
    """Return what all sources say; never raises.

    Every source is heard of: no trace is `unknown`, an error is `unreachable`.
    """
    heard: list[Signal] = []
    for source in sources:
        try:
            heard += source.signals(now) or [Signal(source=source.source, state="unknown")]
        except Exception as error:
            heard.append(Signal(source=source.source, state="unreachable", detail=describe(error)))
    return tuple(heard)


def attempt_day(scheduled: datetime | None, started: datetime | None, reported: datetime) -> date:
    """Return the UTC day of the earlier of two times: the one the attempt was scheduled for and the one it started at.

    An attempt that was promoted by hand starts before its time; one that is overdue starts after it. Where neither is
    known, the day is that of the time it is reported for.
    """
    known = [instant for instant in (scheduled, started) if instant is not None]
    return min(known, default=reported).astimezone(UTC).date()


def one_line(text: str) -> str:
    """Return the text's first line, not too long, without control characters and passwords.

    Rather too much is masked than too little: no text tells by itself where a password in it ends.
    """
    first = next((line for line in text.splitlines() if line.strip()), "")
    visible = "".join(character for character in first if character.isprintable()).strip()
    masked = " ".join(_without_login(word) for word in _without_credentials(visible).split(" "))
    for pattern, instead in _SECRETS:
        masked = pattern.sub(instead, masked)
    return masked[:_LONGEST_LINE]


def _without_credentials(line: str) -> str:
    """Leave out what stands between a URL's scheme and the line's last `@`: a password may hold any character."""
    before, scheme_ends, rest = line.partition("://")
    _, credentials_end, place = rest.rpartition("@")
    return f"{before}://…@{place}" if scheme_ends and credentials_end else line


def _without_login(word: str) -> str:
    """Leave out a name and password that stand before an `@` without a scheme."""
    _, colon, rest = word.partition(":")
    _, credentials_end, place = rest.rpartition("@")
    return f"…@{place}" if colon and credentials_end and not rest.startswith("//") else word


def describe(error: Exception) -> str:
    """Describe an error in one line: its kind and the first line of what it says."""
    said = one_line(str(error))
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
