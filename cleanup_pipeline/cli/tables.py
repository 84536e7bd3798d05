"""What a person reads: one row a rule, as wide as the terminal, and whole where it goes into a file or pipe."""

import io
import os
import re
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cleanup_pipeline.cli.output import Stream, legible
from cleanup_pipeline.cli.report import Report, RuleReport, link_to

# Off a terminal nothing is wrapped or cut off.
_UNLIMITED = 10_000
# A last column that has less room than this is told in lines below the table.
_LEAST_FOR_WORDS = 24
_GAP = 2
_UNKNOWN = "-"
_STYLES = {"success": "green", "failed": "red", "refused": "red", "skipped": "yellow", "interrupted": "yellow"}

Row = Sequence[object]


def of_run(report: Report, stream: Stream) -> str:
    """The summary of a run."""
    headings = ("rule", "status", "rows", "remaining", "seconds", "rows/s", "how")
    keys = ("status", "affected", "remaining", "duration_s", "rows_per_second")
    rows = [(name, *(rule[key] for key in keys), _how(rule)) for name, rule in report.rules.items()]
    return f"{table(headings, rows, stream)}{_notes(report)}{_run_line(report)}"


def _how(rule: RuleReport) -> str | None:
    if rule["access"] is None:
        return None
    windows = f"; {_cell(rule['batches'])} windows, the longest {_cell(rule['longest_batch_ms'])} ms"
    return f"{rule['access']}{windows if rule['batches'] else ''}"


def of_plan(report: Report, stream: Stream) -> str:
    """What a run would do."""
    headings = ("rule", "status", "rows", "share", "oldest", "expected", "access")
    rows = [
        (
            name,
            rule["status"],
            rule["candidates"],
            _share(rule["share"]),
            minute(rule["oldest"]),
            _about(rule["expected_s"]),
            rule["access"],
        )
        for name, rule in report.rules.items()
    ]
    undated = "".join(
        f"{name}: {_cell(rule['undated'])} rows have no age, and are never due.\n"
        for name, rule in report.rules.items()
        if rule["undated"]
    )
    return f"{table(headings, rows, stream)}{undated}{_notes(report)}"


def table(headings: Sequence[str], rows: Sequence[Row], stream: Stream) -> str:
    """A table, or where that has no room a line a row."""
    if stream.is_terminal:
        *widths, _ = _widths(headings, rows)
        if sum(widths) > stream.width:
            return "".join(f"{_in_line(headings, row)}\n" for row in rows)
        if sum(widths) + _LEAST_FOR_WORDS > stream.width:
            words = "".join(f"{_cell(row[0])}: {_cell(row[-1])}\n" for row in rows if row[-1] is not None)
            return f"{_drawn(headings[:-1], [row[:-1] for row in rows], stream)}{words}"
    return _drawn(headings, rows, stream)


def _widths(headings: Sequence[str], rows: Sequence[Row]) -> list[int]:
    columns = zip(headings, *([_cell(value) for value in row] for row in rows), strict=True)
    return [max(map(len, cells)) + _GAP for cells in columns]


def _drawn(headings: Sequence[str], rows: Sequence[Row], stream: Stream) -> str:
    drawn = Table(box=None, pad_edge=False, header_style="bold", padding=(0, _GAP, 0, 0))
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
        emoji=False,
    ).print(drawn)
    return "".join(f"{line.rstrip()}\n" for line in page.getvalue().splitlines())


def _in_line(headings: Sequence[str], row: Row) -> str:
    first, *others = (_cell(value) for value in row)
    told = (f"{heading} {value}" for heading, value in zip(headings[1:], others, strict=True) if value != _UNKNOWN)
    return f"{first}: {', '.join(told)}"


def _cell(value: object) -> str:
    if value is None:
        return _UNKNOWN
    return f"{value:,}" if isinstance(value, int | float) else legible(str(value))


def _share(value: object) -> str | None:
    return f"{value:.1%}" if isinstance(value, float) else None


def minute(value: object) -> object:
    """A time without its seconds; what is no usual time stays as it is."""
    usual = re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d(?=[:0-9.+]*$)", str(value))
    return usual[0] if usual else value


def _about(seconds: object) -> str | None:
    if not isinstance(seconds, int | float):
        return None
    if seconds < 1:
        return "under 1 s"
    return f"about {seconds:,.0f} s" if seconds < 600 else f"about {seconds / 60:,.0f} min"


def _notes(report: Report) -> str:
    return "".join(f"{name}: {note}\n" for name, notes in report.notes.items() for note in notes)


def _run_line(report: Report) -> str:
    where = link_to(report.run_id) if report.recorded else None
    return f"Run {report.run_id}, as of {report.as_of and report.as_of.isoformat()}.{f' {where}' if where else ''}\n"
