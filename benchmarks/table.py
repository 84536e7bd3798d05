"""Tables of what was measured, as Markdown."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement: what, how much, and how much it may be."""

    what: str
    measured: str
    limit: str


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """The ratio of the medians, and how far apart the rounds were."""
    base = statistics.median(theirs)
    low, high = min(ours) / max(theirs), max(ours) / min(theirs)
    return f"{statistics.median(ours) / base:.2f} ({low:.2f} to {high:.2f})"


def show(title: str, rows: Iterable[Row]) -> None:
    """Print a table, row by row as they come."""
    print(f"\n| {title} | measured | limit |\n| --- | --- | --- |")
    for row in rows:
        print(f"| {row.what} | {row.measured} | {row.limit} |", flush=True)
