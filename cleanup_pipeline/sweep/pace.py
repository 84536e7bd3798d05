"""How long windows are, and how long the sweep rests between them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pace:
    """What a sweep may cost the app.

    `window_s` is how long one writing transaction should take, `slice_s` one reading transaction, in seconds; after
    each the sweep rests `rest` times what it took. No snapshot is held for longer than `snapshot_s`.
    """

    name: str
    window_s: float
    slice_s: float
    rest: float
    snapshot_s: float


# What the app feels is the length of a writing transaction. With windows of about 2 ms and a rest of four times that,
# its p99 stayed at 1.2 to 1.6 of what it is alone; windows of 50 to 200 ms, with whatever rest, made it 5 to 15.
DEFAULT = Pace("default", window_s=0.0015, slice_s=0.005, rest=4.0, snapshot_s=1.0)
FULL_SPEED = Pace("full speed", window_s=0.15, slice_s=30.0, rest=0.0, snapshot_s=30.0)

# For plans, which an operator waits for: it only reads, and in short snapshots.
LOOKING = Pace("looking", window_s=0.0015, slice_s=0.05, rest=1.0, snapshot_s=1.0)


class Stride:
    """A step's size, in pages or rows, adapted so that a step takes about `target_s` seconds.

    It at most doubles, and never trusts a unit to cost less than `floor_s`: after an empty stretch of the table, where
    a page costs next to nothing, the next full one must not make a long step. It learns of dear units at once, and of
    cheap ones little by little.
    """

    def __init__(self, target_s: float, first: int, floor_s: float) -> None:
        self._target_s = target_s
        self._floor_s = floor_s
        self._unit_s = floor_s
        self.size = first

    def took(self, size: int, seconds: float) -> None:
        """Learn that a step of `size` units took so long."""
        measured = seconds / max(size, 1)
        if measured > self._unit_s:
            # One step that was held up by something else is not the cost of its rows.
            self._unit_s = min(measured, 4 * self._unit_s)
        else:
            self._unit_s = max(0.7 * self._unit_s + 0.3 * measured, self._floor_s)
        self.size = max(1, min(2 * self.size, int(self._target_s / self._unit_s)))

    def halve(self) -> None:
        """Learn that a step was too long to end at all."""
        self.size = max(1, self.size // 2)
