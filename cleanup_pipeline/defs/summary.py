"""How a run ends, for people: one line for its log, one table and one picture for the UI."""

from collections.abc import Sequence
from datetime import date, datetime

from dagster import DagsterInstance, MarkdownMetadataValue, MetadataValue

from cleanup_pipeline.defs.nights import (
    LEGEND,
    NIGHTS,
    Night,
    Nights,
    first_night,
    is_complete,
    last_nights,
    picture,
    spark,
)
from cleanup_pipeline.gate.day import utc_day
from cleanup_pipeline.sweep.result import Result, Status


def line(results: Sequence[Result]) -> str:
    """What a run did, in one line, rule by rule."""
    told = [
        f"{result.rule}: {result.affected:,} rows"
        + (f", {result.remaining:,} remain" if result.remaining else "")
        + (f" ({result.status.value})" if result.status is not Status.SUCCESS else "")
        + (" (not looked at to its end)" if result.status is Status.SUCCESS and not is_complete(result) else "")
        for result in results
    ]
    return "; ".join(told)


def metadata(
    results: Sequence[Result], instance: DagsterInstance, run_id: str, as_of: datetime
) -> dict[str, MarkdownMetadataValue]:
    """The run's table, and the nights up to it, drawn; without the latter where the nights can't be read.

    The UI shows Markdown of up to 1,000 characters at once, and longer ones at a click: hence the nights twice.
    """
    told = {"summary": MetadataValue.md(table(results))}
    try:
        nights = last_nights(instance, as_of, results, run_id)
    except Exception:
        return told
    return told | {
        f"last_{NIGHTS}_nights": MetadataValue.md(bars(nights, utc_day(as_of))),
        f"last_{NIGHTS}_nights_picture": MetadataValue.md(picture(nights, utc_day(as_of))),
    }


def table(results: Sequence[Result]) -> str:
    """What a run did, as a table in Markdown, rule by rule."""
    head = ["| rule | ended | cleaned | left | seconds |", "| --- | --- | ---: | ---: | ---: |"]
    return "\n".join([*head, *(_row(result) for result in results)])


def _row(result: Result) -> str:
    left = "?" if result.remaining is None else f"{result.remaining:,}"
    seconds = "?" if result.duration_s is None else f"{result.duration_s:,.1f}"
    return f"| {result.rule} | {result.status.value} | {result.affected:,} | {left} | {seconds} |"


def bars(nights: Nights, last: date) -> str:
    """Rows cleaned a night, in Markdown: a line of bars below each rule's name, which a narrow column has room for."""
    told = [f"**{name}** {_scale(of_rule)}\\\n{spark(of_rule)}" for name, of_rule in nights.items()]
    first = first_night(last)
    return "\n\n".join([f"Rows cleaned a night, {first} to {last}. {LEGEND}", *told])


def _scale(nights: Sequence[Night]) -> str:
    """What the last bar means, and the longest."""
    last = nights[-1].rows
    return f"{'-' if last is None else f'{last:,}'} (at most {max(night.rows or 0 for night in nights):,})"
