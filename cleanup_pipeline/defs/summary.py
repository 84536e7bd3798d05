"""How a run ends, for people: one line for its log, one table and one picture for the UI."""

from collections.abc import Sequence
from datetime import date, datetime

from dagster import DagsterInstance, MarkdownMetadataValue, MetadataValue

from cleanup_pipeline.defs.nights import (
    LEGEND,
    Night,
    Nights,
    first_night,
    is_complete,
    last_nights,
    picture,
    spark,
)
from cleanup_pipeline.gate.day import utc_day
from cleanup_pipeline.rules import Rule
from cleanup_pipeline.sweep.result import Result, Status

_NEVER_BEGAN = "never began"


def line(results: Sequence[Result], never_began: Sequence[Rule] = ()) -> str:
    """What a run did, in one line, rule by rule; `never_began` are those of its rules that have no result."""
    told = [
        f"{result.rule}: {result.affected:,} rows"
        + (f", {result.remaining:,} remain" if result.remaining else "")
        + (f" ({ended(result)})" if ended(result) != Status.SUCCESS.value else "")
        for result in results
    ]
    return "; ".join([*told, *(f"{rule.name}: {_NEVER_BEGAN}" for rule in never_began)])


def ended(result: Result) -> str:
    """How a rule ended, in a word or two: one that the run's time did not last for is no success."""
    return result.status.value if result.status is not Status.SUCCESS or is_complete(result) else "not to its end"


def metadata(
    results: Sequence[Result],
    never_began: Sequence[Rule],
    instance: DagsterInstance,
    run_id: str,
    as_of: datetime,
) -> dict[str, MarkdownMetadataValue]:
    """The run's table, and the nights up to it, drawn; without the latter where the nights can't be read.

    The UI shows Markdown of up to 1,000 characters at once, and longer ones at a click: hence the nights twice.
    """
    told = {"summary": MetadataValue.md(table(results, never_began))}
    try:
        nights = last_nights(instance, as_of, results, run_id)
    except Exception:
        return told
    return told | {
        "nights": MetadataValue.md(bars(nights, utc_day(as_of))),
        "nights_picture": MetadataValue.md(picture(nights, utc_day(as_of))),
    }


def table(results: Sequence[Result], never_began: Sequence[Rule] = ()) -> str:
    """What a run did, as a table in Markdown, rule by rule; what matters most first: the UI's column may be narrow."""
    head = ["| rule | cleaned | left | ended | seconds |", "| --- | ---: | ---: | --- | ---: |"]
    rows = [*map(_row, results), *(f"| {rule.name} | 0 | ? | {_NEVER_BEGAN} | ? |" for rule in never_began)]
    return "\n".join([*head, *rows])


def _row(result: Result) -> str:
    left = "?" if result.remaining is None else f"{result.remaining:,}"
    seconds = "?" if result.duration_s is None else f"{result.duration_s:,.1f}"
    return f"| {result.rule} | {result.affected:,} | {left} | {ended(result)} | {seconds} |"


def bars(nights: Nights, last: date) -> str:
    """Rows cleaned a night, in Markdown: a line of bars below each rule's name, which a narrow column has room for."""
    told = [f"**{name}** {_scale(of_rule)}\\\n{spark(of_rule)}" for name, of_rule in nights.items()]
    first = first_night(last)
    return "\n\n".join([f"Rows cleaned a night, {first} to {last}, by their square roots.\\\n{LEGEND}", *told])


def _scale(nights: Sequence[Night]) -> str:
    """What the last bar means, and the longest."""
    last = nights[-1].rows
    return f"{'-' if last is None else f'{last:,}'} (at most {max(night.rows or 0 for night in nights):,})"
