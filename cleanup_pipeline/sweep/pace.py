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
FULL_SPEED = Pace("full speed", window_s=0.12, slice_s=30.0, rest=0.0, snapshot_s=30.0)

# For plans, which an operator waits for: it only reads, and in short snapshots.
LOOKING = Pace("looking", window_s=0.0015, slice_s=0.05, rest=1.0, snapshot_s=1.0)

_SHORT_EACH = 4


class Stride:
    """A step's size, in pages or rows, adapted so that a step takes about `target_s` seconds.

    A step costs something fixed, whatever its size, and something for each unit. The two are told apart by a regression
    over the last steps, of which each fourth is half as long; the fixed part alone must not make steps small. The size
    at most doubles, and a unit is never trusted to cost less than `floor_s`: after an empty stretch of the table, where
    a page costs next to nothing, the next full one must not make a long step. Dear units are learned at once, cheap
    ones little by little.
    """

    def __init__(self, target_s: float, first: int, floor_s: float) -> None:
        self._target_s = target_s
        self._floor_s = floor_s
        self._fixed_s = 0.0
        self._unit_s = floor_s
        self._full = first
        self._steps = 0
        # Running means of the last steps: size, seconds, size * size, size * seconds.
        self._means = (0.0, 0.0, 0.0, 0.0)

    @property
    def size(self) -> int:
        """The next step's size."""
        is_short = self._steps % _SHORT_EACH == _SHORT_EACH - 1
        return (self._full // 2 or 2) if is_short else self._full

    def took(self, size: int, seconds: float) -> None:
        """Learn that a step of `size` units took so long."""
        size = max(size, 1)
        expected_s = self._fixed_s + size * self._unit_s
        if self._steps == 0:
            self._begin_with(size, seconds)
        elif seconds > 2 * max(expected_s, self._target_s):
            # One step that was held up by something else is not the cost of its rows.
            self._begin_with(size, min(seconds, self._fixed_s + 4 * size * self._unit_s))
        else:
            self._add(size, seconds)
        self._steps += 1
        self._fit()
        room_s = max(self._target_s - self._fixed_s, self._target_s / 2)
        # Behind a step that was too long the next one is to be right, whatever those before have cost.
        unit_s = min(max(self._unit_s, (seconds - self._fixed_s) / size), 1.5 * self._unit_s)
        self._full = max(1, min(2 * self._full, int(room_s / unit_s)))

    def halve(self) -> None:
        """Learn that a step was too long to end at all."""
        self._full = max(1, self._full // 2)

    def _begin_with(self, size: int, seconds: float) -> None:
        self._means = (0.0, self._fixed_s, 0.0, 0.0)
        self._add(size, seconds, weight=0.5)

    def _add(self, size: int, seconds: float, weight: float = 0.15) -> None:
        step = (float(size), seconds, float(size) ** 2, size * seconds)
        first, second, third, fourth = (
            mean + weight * (value - mean) for mean, value in zip(self._means, step, strict=True)
        )
        self._means = (first, second, third, fourth)

    def _fit(self) -> None:
        size, seconds, squares, products = self._means
        spread = squares - size**2
        slope = (products - size * seconds) / spread if spread > 0 else 0.0
        self._unit_s = min(max(slope, self._floor_s), max(seconds / size, self._floor_s))
        self._fixed_s = max(0.0, seconds - size * self._unit_s)
