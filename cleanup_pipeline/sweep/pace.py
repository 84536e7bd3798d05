"""How long windows are, and how long the sweep rests between them."""

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pace:
    """What a sweep may cost the app.

    `window_s` is how long the statements of one writing transaction should take, `slice_s` those of a reading one, in
    seconds; after each the sweep rests `rest` times what they took, and as long as it has waited besides. No snapshot
    is held for longer than `snapshot_s`. A table of at least `shared_from` pages, of which rows are to be changed, is
    walked on two connections at once; None: on one, however large it is.
    """

    name: str
    window_s: float
    slice_s: float
    rest: float
    snapshot_s: float
    shared_from: int | None = None


# What the app feels is the length of a writing transaction. With windows of about 2 ms and a rest of four times that,
# its p99 stayed at 1.2 to 1.6 of what it is alone; windows of 50 to 200 ms, with whatever rest, made it 5 to 15. Slices
# of 5 ms, in which one of two cores is busy with reading, made it 1.8. The faster a machine answers the app, the more a
# window is: where the p99 alone was 1 ms, windows of 1 ms and slices of 1.5 ms made it 1.7, those here 1.1. To begin
# and to end a transaction takes another millisecond after a rest, in which nobody works: slices that counted it, and
# rested for it, took twice as long.
DEFAULT = Pace("default", window_s=0.0007, slice_s=0.001, rest=4.0, snapshot_s=1.0)
# On two connections closing sessions took 0.6 of what it takes on one; to delete they won nothing. Less than 4 MB are
# not worth the connecting. Longer windows are no faster.
FULL_SPEED = Pace("full speed", window_s=0.07, slice_s=30.0, rest=0.0, snapshot_s=30.0, shared_from=512)

# For plans, which an operator waits for: it only reads, and in short snapshots.
LOOKING = Pace("looking", window_s=0.0015, slice_s=0.05, rest=1.0, snapshot_s=1.0)

# One of so many steps is short, to tell what any step costs.
_SHORT_EACH = 8
# Of the last steps so many are remembered, and of those that were in time so many tell: what a unit costs may drift.
_REMEMBERED = 8
_TELL = 2
_MUCH = 1.5
# For units there is left so many times what two short steps differ by, and so many targets at the most.
_SPREADS = 2.0
_MOST_TARGETS = 8.0


class Stride:
    """A step's size, in pages or rows, adapted so that a step takes about `target_s` seconds.

    A step costs something fixed, whatever its size, and something for each unit. The fixed part alone must not make
    steps small: a short step now and then bounds it, and at least half of the target is left for the units; more, where
    a far server's answers are late by more than that, now more and now less, as two short steps in time tell. Nor must
    what holds steps up, a busy machine above all: of the last few steps those that were in time tell what a size costs,
    since nothing makes a step shorter than its work. While steps are late each is half as long as the one before; once
    none of the last few was in time, their units are believed to be dear.

    `far_s` is how long a statement is on its way to a far server. The size at most doubles, and a unit is never trusted
    to cost less than `floor_s`: after an empty stretch of the table, where a page costs next to nothing, the next full
    one must not make a long step.
    """

    def __init__(self, target_s: float, first: int, floor_s: float, far_s: float = 0.0) -> None:
        self.target_s = target_s
        self._far_s = far_s
        self._floor_s = floor_s
        self.full = first
        self._steps = 0
        self._late = 0
        self._short_s = deque[float](maxlen=_REMEMBERED)
        self._last = deque[tuple[int, float]](maxlen=_REMEMBERED)

    @property
    def size(self) -> int:
        """The next step's size."""
        return (self.full // 4 or 1) if self._is_short else self.full

    @property
    def _is_short(self) -> bool:
        return self._steps % _SHORT_EACH == 1

    def took(self, size: int, seconds: float) -> None:
        """Learn that a step of `size` units took so long."""
        if self._is_short:
            self._short_s.append(seconds)
        else:
            self._last.append((max(size, 1), seconds))
            self.full = self._fitting()
        self._steps += 1

    def _fitting(self) -> int:
        """How many units fit into a step."""
        fixed_s = min([*self._short_s, *(seconds for _, seconds in self._last)]) if self._short_s else 0.0
        limit_s = max(self.target_s, fixed_s + self._left_for_units_s)
        _, seconds = self._last[-1]
        self._late = self._late + 1 if seconds > _MUCH * limit_s else 0

        def fitting(size: int, seconds: float) -> float:
            return (limit_s - fixed_s) / max((seconds - fixed_s) / size, self._floor_s)

        in_time = [step for step in self._last if step[1] <= _MUCH * limit_s]
        if in_time:
            most = max(min(2 * size, fitting(size, seconds)) for size, seconds in in_time[-_TELL:]) / 2**self._late
        else:
            most = max(fitting(*step) for step in self._last)
        return max(1, min(int(most), 2 * self.full))

    @property
    def _left_for_units_s(self) -> float:
        """How much of a step is left for its units at the least."""
        shortest = sorted(self._short_s)[:2]
        spread_s = shortest[-1] - shortest[0] if shortest else 0.0
        return max(self.target_s / 2, min(_SPREADS * spread_s, self._far_s, _MOST_TARGETS * self.target_s))

    def halve(self) -> None:
        """Learn that a step was too long to end at all."""
        self.full = max(1, self.full // 2)
        self._last.clear()
