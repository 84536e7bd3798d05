"""How a run ends, for people: one line for its log, one table and one picture for the UI."""

from collections.abc import Sequence
from datetime import datetime

from dagster import DagsterInstance, MarkdownMetadataValue, MetadataValue

from cleanup_pipeline.defs.nights import NIGHTS, Nights, last_nights, picture, spark
from cleanup_pipeline.gate.day import utc_day
from cleanup_pipeline.sweep.result import Result, Status


def line(results: Sequence[Result]) -> str:
    """What a run did, in one line, rule by rule."""
    told = [
        f"{result.rule}: {result.affected:,} rows"
        + (f", {result.remaining:,} remain" if result.remaining else "")
        + (f" ({result.status.value})" if result.status is not Status.SUCCESS else "")
        for result in results
    ]
    return "; ".join(told)


def metadata(
    results: Sequence[Result], instance: DagsterInstance, run_id: str, as_of: datetime
) -> dict[str, MarkdownMetadataValue]:
    """The run's table, and a picture of the nights up to it; without the latter where the nights can't be read."""
    try:
        nights = last_nights(instance, as_of, results, run_id)
    except Exception:
        return {"summary": MetadataValue.md(table(results, {}))}
    return {
        "summary": MetadataValue.md(table(results, nights)),
        f"last_{NIGHTS}_nights": MetadataValue.md(picture(nights, utc_day(as_of))),
    }


def table(results: Sequence[Result], nights: Nights) -> str:
    """What a run did, as a table in Markdown, rule by rule; short, so that the UI shows it without a click."""
    head = ["| rule | ended | cleaned | left | took | last nights |", "| --- | --- | ---: | ---: | ---: | --- |"]
    return "\n".join([*head, *(_row(result, nights) for result in results)])


def _row(result: Result, nights: Nights) -> str:
    left = "?" if result.remaining is None else f"{result.remaining:,}"
    took = "" if result.duration_s is None else f"{result.duration_s:,.1f} s"
    bars = spark(nights.get(result.rule, ())).lstrip("·")
    return f"| {result.rule} | {result.status.value} | {result.affected:,} | {left} | {took} | {bars} |"
