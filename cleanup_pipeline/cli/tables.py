"""What a person reads: one row a rule, as wide as the terminal, and whole where it goes into a file or pipe."""

import io
import os
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cleanup_pipeline.cli.output import Stream
from cleanup_pipeline.cli.report import Report

# Off a terminal nothing is wrapped or cut off.
_UNLIMITED = 10_000
# Narrower than this a table is a heap of broken words.
_NARROWEST = 60
_UNKNOWN = "-"
_STYLES = {"success": "green", "failed": "red", "refused": "red", "skipped": "yellow", "interrupted": "yellow"}

Row = Sequence[object]


def of_run(report: Report, stream: Stream) -> str:
    """The summary of a run."""
    headings = ("rule", "status", "rows", "remaining", "seconds", "rows/s", "windows", "longest ms", "access")
    keys = ("status", "affected", "remaining", "duration_s", "rows_per_second", "batches", "longest_batch_ms", "access")
    rows = [(name, *(rule[key] for key in keys)) for name, rule in report.rules.items()]
    return f"{table(headings, rows, stream)}{_notes(report)}{_run_line(report)}"


def of_plan(report: Report, stream: Stream) -> str:
    """What a run would do."""
    headings = ("rule", "status", "rows to clean", "oldest", "undated", "access")
    keys = ("status", "candidates", "oldest", "undated", "access")
    rows = [(name, *(rule[key] for key in keys)) for name, rule in report.rules.items()]
    return f"{table(headings, rows, stream)}{_notes(report)}"


def table(headings: Sequence[str], rows: Sequence[Row], stream: Stream) -> str:
    """A table, or where that has no room a line a row."""
    if stream.is_terminal and stream.width < _NARROWEST:
        return "".join(f"{_in_line(headings, row)}\n" for row in rows)
    drawn = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for place, heading in enumerate(headings):
        numbers = any(isinstance(row[place], int | float) for row in rows)
        drawn.add_column(
            heading,
            justify="right" if numbers else "left",
            overflow="fold",
            # Of what does not fit, the last column folds; a name or number never does.
            no_wrap=not stream.is_terminal or place < len(headings) - 1,
        )
    for row in rows:
        drawn.add_row(*(Text(_cell(value), style=_STYLES.get(str(value), "")) for value in row))
    page = io.StringIO()
    Console(
        file=page,
        width=stream.width if stream.is_terminal else _UNLIMITED,
        force_terminal=stream.can_draw,
        no_color=not stream.can_draw or bool(os.environ.get("NO_COLOR")),
        legacy_windows=False,
    ).print(drawn)
    return "".join(f"{line.rstrip()}\n" for line in page.getvalue().splitlines())


def _in_line(headings: Sequence[str], row: Row) -> str:
    first, *others = (_cell(value) for value in row)
    told = (f"{heading} {value}" for heading, value in zip(headings[1:], others, strict=True) if value != _UNKNOWN)
    return f"{first}: {', '.join(told)}"


def _cell(value: object) -> str:
    if value is None:
        return _UNKNOWN
    return f"{value:,}" if isinstance(value, int | float) else " ".join(str(value).split())


def _notes(report: Report) -> str:
    return "".join(f"{name}: {note}\n" for name, notes in report.notes.items() for note in notes)


def _run_line(report: Report) -> str:
    url = os.environ.get("CLEANUP_UI_URL", "").rstrip("/")
    where = f" {url}/runs/{report.run_id}" if url else ""
    return f"Run {report.run_id}, as of {report.as_of and report.as_of.isoformat()}.{where}\n"
