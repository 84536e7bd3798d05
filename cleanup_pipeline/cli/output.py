"""Where a command writes: what was asked for to stdout, everything else to stderr."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

_STDOUT, _STDERR = 1, 2
_USUAL_WIDTH = 80


# They are part of words, in Persian say, and of some emoji.
_JOINERS = "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"


def legible(text: str) -> str:
    """`text` on one line, with nothing in it that a terminal would obey or hide."""
    return "".join(
        character if character.isprintable() or character in _JOINERS else "\N{REPLACEMENT CHARACTER}"
        for character in " ".join(text.split())
    )


class Stream:
    """A descriptor to write text to. Who closed the other end, as `head` does, is not interested: that is no error."""

    def __init__(self, descriptor: int, encoding: str) -> None:
        self.descriptor = descriptor
        self.encoding = encoding
        self.is_terminal = os.isatty(descriptor)
        self._closed = False

    def write(self, text: str) -> None:
        """Write all of `text`. Raises `OSError`, of a full disk say."""
        rest = text.encode(self.encoding, "backslashreplace")
        while rest and not self._closed:
            try:
                rest = rest[os.write(self.descriptor, rest) :]
            except BrokenPipeError:
                self._closed = True

    def line(self, text: str) -> None:
        """Write a line to a person; where that can't be done there is nobody to tell."""
        with suppress(OSError):
            self.write(f"{legible(text)}\n")

    @property
    def width(self) -> int:
        """The terminal's width in columns."""
        told = os.environ.get("COLUMNS", "")
        if told.isdecimal() and int(told) > 0:
            return int(told)
        try:
            return os.get_terminal_size(self.descriptor).columns or _USUAL_WIDTH
        except OSError:
            return _USUAL_WIDTH

    @property
    def can_draw(self) -> bool:
        """Whether lines on it can be redrawn."""
        return self.is_terminal and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")


@dataclass(frozen=True)
class Streams:
    """The two streams of a command."""

    out: Stream
    err: Stream


@contextmanager
def open_streams() -> Iterator[Streams]:
    """Keep both streams for the command alone.

    Whatever else writes to stdout (a library, a warning) must not stand beside the one JSON document: it goes to stderr
    meanwhile.
    """
    _open_what_is_closed()
    ours = Streams(
        Stream(os.dup(_STDOUT), _encoding(sys.stdout)),
        Stream(os.dup(_STDERR), _encoding(sys.stderr)),
    )
    os.dup2(_STDERR, _STDOUT)
    try:
        yield ours
    finally:
        with suppress(OSError):
            sys.stdout.flush()
        os.dup2(ours.out.descriptor, _STDOUT)
        os.close(ours.out.descriptor)
        os.close(ours.err.descriptor)


def _open_what_is_closed() -> None:
    """Without this a connection to the database might become descriptor 1, and be written to."""
    for descriptor in (0, _STDOUT, _STDERR):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or io.TextIOWrapper(io.FileIO(_STDOUT, "w", closefd=False))
    sys.stderr = sys.stderr or io.TextIOWrapper(io.FileIO(_STDERR, "w", closefd=False))


def _encoding(stream: object) -> str:
    return getattr(stream, "encoding", None) or "utf-8"
