"""Holding back while others suffer: a standby that falls behind, or somebody who waits for what a window has locked."""

import time
from collections import deque
from collections.abc import Iterator

from cleanup_pipeline.postgres import Transaction
from cleanup_pipeline.sweep.catalog import Catalog
from cleanup_pipeline.sweep.reader import Reader
from cleanup_pipeline.sweep.window import Budget, Writer

MOST_LAG_S = 10.0
"""A standby that is further behind than this is waited for."""
PATIENCE_S = 60.0
"""But no longer than this in a sweep: one that does not catch up while we rest is not held up by us."""

_LOOK_EVERY_S = 1.0
# What a window that somebody waited for is followed by, in lengths of it.
_REST_FOR_WAITERS = 4.0


class Backoff:
    """Looks, about once a second, whether a standby is behind, and waits for it."""

    def __init__(self, reader: Reader, writer: Writer, budget: Budget) -> None:
        self._reader = reader
        self._writer = writer
        self._budget = budget
        # How far the server had written when. What it says of a lag itself (`replay_lag`) stands still while a
        # standby's replay does.
        self._written: deque[tuple[float, int]] = deque(maxlen=int(PATIENCE_S + MOST_LAG_S) * 2)
        self._next_look = 0.0
        self._waited_s = 0.0
        self._waited_for = 0

    def hold_back(self, working_s: float) -> Iterator[str]:
        """After a window that worked so long: rest for those who waited for it, then wait for a standby.

        Yields, each second, what is waited for. Raises `InterruptedSweepError`.
        """
        if self._writer.held_up_others:
            self._waited_for += 1
            self._reader.pause(_REST_FOR_WAITERS * working_s)
        while time.monotonic() >= self._next_look and self._waited_s < PATIENCE_S and not self._budget.late:
            lag_s = self._reader.once(self._lag_s)
            self._next_look = time.monotonic() + _LOOK_EVERY_S
            if lag_s <= MOST_LAG_S:
                return
            yield f"waiting for a standby that is {lag_s:,.0f} s behind"
            self._reader.pause(_LOOK_EVERY_S)
            self._waited_s += _LOOK_EVERY_S

    def beside(self, reader: Reader, writer: Writer) -> "Backoff":
        """Another one for a thread beside: it has no more patience left than this one."""
        backoff = Backoff(reader, writer, self._budget)
        backoff._waited_s = self._waited_s
        return backoff

    def take_over(self, other: "Backoff") -> None:
        """Count what the one beside has waited as well."""
        self._waited_for += other._waited_for
        self._waited_s = max(self._waited_s, other._waited_s)

    def notes(self) -> Iterator[str]:
        """What there was to wait for."""
        if self._waited_for:
            yield f"After {self._waited_for:,} windows the sweep rested, since others had waited for what they held."
        if self._waited_s:
            went_on = "; then it went on, since the standby did not catch up" if self._waited_s >= PATIENCE_S else ""
            yield f"The sweep waited {self._waited_s:,.0f} s for a standby that was behind{went_on}."

    def _lag_s(self, transaction: Transaction) -> float:
        """How many seconds the last of the standbys is behind; 0 where there is none, or none that we may see."""
        standbys = Catalog(transaction).standbys()
        now = time.monotonic()
        self._written.append((now, standbys.written))
        if standbys.replayed is None:
            return 0.0
        missing = (moment for moment, written in self._written if written > standbys.replayed)
        return max(standbys.lag_s, now - next(missing, now))
