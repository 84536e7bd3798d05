"""Progress, while a run goes on: bars on a terminal, and lines now and then elsewhere."""

import os
import time
from contextlib import suppress

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bar

from cleanup_pipeline.cli.execution import Observed
from cleanup_pipeline.cli.output import Stream
from cleanup_pipeline.cli.watch import Display
from cleanup_pipeline.sweep.result import Progress, Result, Status

_FIRST_LINE_S = 2.0
_LINE_EVERY_S = 5.0
_DRAW_EVERY_S = 0.1
# Narrower, there is no room for a bar beside the longest rule's name and its numbers.
_NARROWEST = 80
_BAR = 10
_STOPPING = "Stopping after the window under way. Ctrl-C again ends it at once."


def display_on(stream: Stream, observed: Observed) -> Display:
    """What suits the stream."""
    return Bars(stream, observed) if stream.can_draw and stream.width >= _NARROWEST else Lines(stream, observed)


class Lines:
    """A line at each rule's end, and every few seconds."""

    def __init__(self, stream: Stream, observed: Observed) -> None:
        self._stream = stream
        self._observed = observed
        self._told: set[str] = set()
        self._next = time.monotonic() + _FIRST_LINE_S

    def show(self) -> None:
        """Say what is new."""
        self._tell_results()
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _LINE_EVERY_S
        for name, progress in list(self._observed.latest.items()):
            if name not in self._told:
                self._stream.line(f"{name}: {_how_far(progress)}")

    def stopping(self) -> None:
        """Say that it will not be long."""
        self._stream.line(_STOPPING)

    def close(self) -> None:
        """Say what is left to say."""
        self._tell_results()

    def _tell_results(self) -> None:
        for name, result in list(self._observed.results.items()):
            if name not in self._told:
                self._told.add(name)
                self._stream.line(f"{name}: {_how_ended(result)}")


class Bars:
    """A bar a rule, redrawn in place; gone at the end, when the summary says it all."""

    def __init__(self, stream: Stream, observed: Observed) -> None:
        self._observed = observed
        self._stream = stream
        self._file = os.fdopen(os.dup(stream.descriptor), "w", encoding=stream.encoding, errors="backslashreplace")
        console = Console(file=self._file, force_terminal=True, width=stream.width, markup=False, highlight=False)
        self._bars = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=min(_BAR + stream.width - _NARROWEST, 2 * _BAR), finished_style="green"),
            TextColumn("{task.fields[told]}", markup=False),
            console=console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._tasks: dict[str, TaskID] = {
            rule.name: self._bars.add_task(rule.name, total=1.0, told="") for rule in observed.request.rules
        }
        self._next = 0.0
        self._closed = False

    def show(self) -> None:
        """Draw the bars."""
        if time.monotonic() < self._next or self._closed:
            return
        self._next = time.monotonic() + _DRAW_EVERY_S
        with suppress(OSError):  # a terminal that is gone
            self._bars.start()
            self._update()
            self._bars.refresh()

    def stopping(self) -> None:
        """Say so above the bars."""
        with suppress(OSError):
            self._bars.console.print(_STOPPING)

    def close(self) -> None:
        """Take the bars away, and give the cursor back."""
        if not self._closed:
            self._closed = True
            with suppress(OSError):
                self._bars.stop()
                self._file.close()

    def _update(self) -> None:
        for name, task in self._tasks.items():
            progress, result = self._observed.latest.get(name), self._observed.results.get(name)
            if result is not None:
                self._bars.update(task, completed=1.0, told=_how_ended(result))
            elif progress is not None:
                self._bars.update(task, completed=progress.share, told=_briefly(progress))


def _how_far(progress: Progress) -> str:
    rate = f"{progress.rows_per_second:,.0f} rows/s"
    left = "" if progress.left_s is None else f", about {progress.left_s:,.0f} s left"
    return f"{progress.stage}, {progress.share:.0%}, {progress.affected:,} rows, {rate}{left}"


def _briefly(progress: Progress) -> str:
    """The same, as short as a bar's neighbour must be; what comes before and after the windows cleans nothing."""
    left = "" if progress.left_s is None else f", {progress.left_s:,.0f} s left"
    if progress.stage != "windows":
        return f"{progress.stage}, {progress.share:.0%}{left}"
    return f"{progress.share:.0%}, {progress.affected:,} rows, {progress.rows_per_second:,.0f}/s{left}"


def _how_ended(result: Result) -> str:
    ended = "" if result.status is Status.SUCCESS else f"{result.status.value}, "
    took = "" if result.duration_s is None else f" in {result.duration_s:,.2f} s"
    return f"{ended}{result.affected:,} rows{took}"
