"""What the signals say together: whether message cleanup is done for a day."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date

from cleanup_pipeline.gate.day import clock
from cleanup_pipeline.gate.signals import Signal, Source

SPOKEN: dict[Source, str] = {
    "bullmq": "BullMQ",
    "dagster_run": "Dagster run",
    "materialization": "reported to Dagster",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether message cleanup is done, by which signal, in which words.

    `signals` has one signal for each source. `clauses` are the parts of a sentence, without its full stop.
    """

    done: bool
    signal: Signal | None
    signals: tuple[Signal, ...]
    clauses: tuple[str, ...]


def judge(day: date, signals: Sequence[Signal]) -> Verdict:
    """Whether message cleanup is done for the day: its newest attempt decides, in each source and among them.

    A source that can't be reached is told and never makes it done.
    """
    heard = tuple(_of_source(day, list(of_one)) for of_one in _by_source(_without_echoes(day, signals)))
    decider = _decider(heard)
    left_over = _left_over(day, decider, signals)
    if left_over:
        decider = left_over
        heard = tuple(left_over if signal.source == left_over.source else signal for signal in heard)
    return Verdict(
        done=decider is not None and decider.state == "succeeded",
        signal=decider,
        signals=heard,
        clauses=_clauses(day, decider, heard, signals),
    )


def _without_echoes(day: date, signals: Sequence[Signal]) -> list[Signal]:
    """Leave out what we recorded of a source that tells of the day itself: that is no second opinion.

    While the source can't be reached, and when it has forgotten, the record is what is known.
    """
    silent = {signal.source for signal in signals if signal.state == "unreachable"}
    telling = {signal.source for signal in signals if signal.day == day and signal.queued != "later"} - silent
    return [
        Signal(source=signal.source, state="unknown") if signal.echo_of in telling else signal for signal in signals
    ]


def _by_source(signals: Iterable[Signal]) -> Iterable[list[Signal]]:
    grouped: dict[Source, list[Signal]] = {}
    for signal in signals:
        grouped.setdefault(signal.source, []).append(signal)
    return grouped.values()


def _of_source(day: date, signals: list[Signal]) -> Signal:
    """Pick the one signal that counts: the source can't be reached, or the day's newest attempt, or no trace of one."""
    unreachable = [signal for signal in signals if signal.state == "unreachable"]
    if unreachable:
        return unreachable[0]
    attempts = [signal for signal in signals if signal.day == day and signal.state != "unknown"]
    # A part of the day could not be looked at, and a newer attempt may be there.
    unseen = [signal for signal in signals if signal.day == day and signal.state == "unknown"]
    if attempts:
        # Where two attempts began at one instant, the one that keeps the gate closed.
        newest = max(attempts, key=lambda signal: (signal.began, signal.state != "succeeded"))
        return unseen[0] if unseen and newest.state == "succeeded" else newest
    told = [signal for signal in signals if signal.state == "unknown" and signal.detail]
    return told[0] if told else Signal(source=signals[0].source, state="unknown")


def _decider(heard: Sequence[Signal]) -> Signal | None:
    """Pick the signal that decides among several sources; None only where there are none."""
    attempts = [signal for signal in heard if signal.state not in ("unknown", "unreachable")]
    succeeded = [signal for signal in attempts if signal.state == "succeeded"]
    if succeeded:
        newest = _newest(succeeded)
        newer = [signal for signal in attempts if signal.state != "succeeded" and signal.is_newer_than(newest)]
        return _newest(newer) if newer else newest
    if attempts:
        return _newest(attempts)
    return next((signal for signal in heard if signal.state == "unreachable"), heard[0] if heard else None)


def _left_over(day: date, decider: Signal | None, signals: Sequence[Signal]) -> Signal | None:
    """Pick what is still on of an earlier day, where nothing has begun for this one: it tells why that waits.

    It changes no decision: whether it succeeds is nothing to this day.
    """
    if decider and decider.state not in ("waiting", "unknown", "unreachable"):
        return None
    silent = {signal.source for signal in signals if signal.state == "unreachable"}
    states = ("running",) if decider and decider.state == "waiting" else ("running", "retrying", "waiting")
    left = [
        signal
        for signal in signals
        if signal.day and signal.day < day and signal.state in states and signal.source not in silent
    ]
    return max(left, key=lambda signal: (signal.state == "running", signal.began), default=None)


def _newest(signals: Sequence[Signal]) -> Signal:
    newest = signals[0]
    for signal in signals[1:]:
        if signal.is_newer_than(newest):
            newest = signal
    return newest


def _clauses(day: date, decider: Signal | None, heard: Sequence[Signal], signals: Sequence[Signal]) -> tuple[str, ...]:
    """Say what a person must know: what decided, then what could not be looked at."""
    silent = [
        f"{SPOKEN[signal.source]} can't be reached: {signal.detail or 'no answer'}"
        if signal.source == "bullmq"
        else f"Dagster's storage can't be read ({SPOKEN[signal.source]}): {signal.detail or 'no answer'}"
        for signal in heard
        if signal.state == "unreachable"
    ]
    odd = [signal.detail for signal in signals if signal.state == "unknown" and signal.detail]
    if decider is None or decider.state in ("unknown", "unreachable"):
        traces = any(signal.day == day and signal.state == "succeeded" for signal in signals)
        return (*([] if traces and odd else _no_trace(day, signals)), *odd, *silent)
    return (_spoken(decider, day), *([] if decider.state == "succeeded" else odd), *silent)


def _no_trace(day: date, signals: Sequence[Signal]) -> list[str]:
    clauses = [f"No trace of message cleanup for {day}"]
    earlier = [
        signal for signal in signals if signal.state == "succeeded" and signal.day is not None and signal.day < day
    ]
    if earlier:
        last = max(earlier, key=lambda signal: signal.at or signal.began)
        when = f" at {clock(last.at, day)}" if last.at else ""
        clauses.append(f"the last success is the one for {last.day},{when} ({SPOKEN[last.source]})")
    return clauses


def _spoken(signal: Signal, day: date) -> str:
    when = clock(signal.at, day) if signal.at else None
    source = f"recorded from {SPOKEN[signal.echo_of]}" if signal.echo_of else SPOKEN[signal.source]
    match signal.state:
        case "succeeded":
            return f"Message cleanup succeeded at {when} ({source})"
        case "running":
            said = f"Message cleanup has been running since {when} ({source})"
        case "retrying":
            said = f"Message cleanup failed and will be tried again{f' at {when}' if when else ''} ({source})"
        case "failed":
            said = f"Message cleanup failed at {when} ({source})"
        case _:
            said = f"Message cleanup is due at {when} and has not started ({source})"
    return f"{said}: {signal.detail}" if signal.detail else said
