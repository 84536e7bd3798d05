"""SIGINT and SIGTERM.

Raised in the midst of a driver's or Dagster's own code an interrupt would leave things half done: so a signal is only
noted, and the main thread looks (`watch`).
"""

import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

INTERRUPTED = 130
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def nothing() -> None:
    """Do nothing."""


class Interrupts:
    """Whether somebody has asked us to stop. A second Ctrl-C calls `last_words`, and ends the process at once."""

    def __init__(self) -> None:
        self.asked = False
        self.last_words: Callable[[], None] = nothing

    def take(self) -> None:
        """Note signals from now on."""
        for number in _SIGNALS:
            signal.signal(number, self._note)

    def raise_them(self) -> None:
        """Have signals raise `KeyboardInterrupt` from now on, one that came before included.

        For commands that only have to leave their blocks, in which a server of theirs runs.
        """
        for number in _SIGNALS:
            signal.signal(number, _raise)
        if self.asked:
            raise KeyboardInterrupt

    def ignore(self) -> None:
        """Take no notice of signals any more."""
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def leave(self) -> NoReturn:
        """End the process at once; the server rolls back what is not committed."""
        try:
            self.last_words()
        finally:
            os._exit(INTERRUPTED)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            self.leave()
        self.asked = True


def _raise(*_: object) -> NoReturn:
    raise KeyboardInterrupt


interrupts = Interrupts()
"""Those of this process."""
