"""A command's work in a thread of its own, and the main thread's eye on it: on signals, and on the terminal."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeVar

from cleanup_pipeline.cli.signals import interrupts

if TYPE_CHECKING:
    from cleanup_pipeline.cli.report import Answer

_LOOK_S = 0.05
# A window ends within a second, and a statement is cancelled: what takes longer than this hangs.
_LONGEST_STOP_S = 20.0

T = TypeVar("T")


class AbandonedError(Exception):
    """The main thread has ended the command: its work must not begin any more."""


class Display(Protocol):
    """What a person sees while a command works; only the main thread draws."""

    def show(self) -> None:
        """Draw what has changed; called many times a second."""

    def stopping(self) -> None:
        """Say that the work was asked to stop; called once."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class _NoDisplay:
    def show(self) -> None:
        """Draw nothing."""

    stopping = close = show


class Watch:
    """A command's work in a thread of its own, and the main thread's eye on it.

    Until the work calls `begin`, nothing is touched: an interrupt then ends the process at once. From there on it sets
    `stop`, and the work is waited for. `so_far` tells what is known where the process must end at once.
    """

    def __init__(self, so_far: "Callable[[], Answer]") -> None:
        self.so_far = so_far
        self.stop = threading.Event()
        self.display: Display = _NoDisplay()
        self._lock = threading.Lock()
        self._begun = False
        self._abandoned = False

    def begin(self) -> None:
        """From now on something may be touched. Raises `AbandonedError` where the main thread was quicker."""
        with self._lock:
            if self._abandoned:
                raise AbandonedError
            self._begun = True

    def over(self, work: Callable[[], T]) -> T:
        """Do `work` in a thread; returns what it returns and raises what it raises, or ends the process."""
        outcomes: list[T] = []
        errors: list[BaseException] = []
        done = threading.Event()

        def do() -> None:
            try:
                outcomes.append(work())
            except BaseException as error:
                errors.append(error)
            finally:
                done.set()

        threading.Thread(target=do, name="command", daemon=True).start()
        self._wait(done)
        self.display.close()
        if errors:
            raise errors[0]
        return outcomes[0]

    def _wait(self, done: threading.Event) -> None:
        looks_since_asked = 0
        while not done.wait(_LOOK_S):
            self.display.show()
            if interrupts.asked:
                self._stop(looks_since_asked * _LOOK_S)
                looks_since_asked += 1

    def _stop(self, since_asked_s: float) -> None:
        if self._abandon() or since_asked_s >= _LONGEST_STOP_S:
            interrupts.leave()
        if not self.stop.is_set():
            self.stop.set()
            self.display.stopping()

    def _abandon(self) -> bool:
        with self._lock:
            self._abandoned = not self._begun
        return self._abandoned
