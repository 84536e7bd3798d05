"""What the asset graph tells a stranger: what is cleaned, by which condition, what is never touched."""

import inspect
from importlib import metadata

from dagster import MetadataValue, TableColumn, TableColumnConstraints, TableSchema, UrlMetadataValue

from cleanup_pipeline import rules
from cleanup_pipeline.rules import Age, Close, Rule
from cleanup_pipeline.sweep.footprint import Footprint, rows_left

OWNER = "team:profile-service"
"""Whose data it is."""

_DISTRIBUTION = "cleanup-pipeline"
_WHERE_SOURCE_LIES = ("repository", "source", "source code", "homepage")
_ABOUT_AS_OF = "`as_of` is one instant for all of a run: when it began, by the database's clock."


def described(rule: Rule) -> str:
    """Describe a rule in Markdown: what is cleaned, by which condition, what is never touched."""
    return "\n\n".join(
        [
            rule.about,
            f"**Cleaned** are the rows of `{rule.table}` where {_condition(rule)}. {_done(rule)}",
            f"**Never touched:** {_spared(rule)}",
            _ABOUT_AS_OF,
        ]
    )


def _condition(rule: Rule) -> str:
    conditions = []
    if rule.due:
        conditions.append(f"`{rule.due % {'as_of': 'as_of'}}`")
    if rule.orphan_of:
        reference = rule.orphan_of
        conditions.append(f"`{reference.column}` names no `{reference.key}` of `{reference.parent}`")
    if rule.age:
        conditions.append(f"{_aged(rule.age)} lies more than {_spoken(rule.age)} before `as_of`")
    return " and ".join(conditions)


def _aged(age: Age) -> str:
    first, *more = (f"`{column}`" for column in age.columns)
    return f"the later of {first} and {', '.join(more)} (where there is one)" if more else first


def _spoken(age: Age) -> str:
    hours = round(age.default.total_seconds() / 3600)
    number, unit = (hours // 24, "day") if hours % 24 == 0 else (hours, "hour")
    return f"{number} {unit}{'s' if number != 1 else ''} (`{_setting(age)}`)"


def _setting(age: Age) -> str:
    return "retention_days" if age.kind == "retention" else "grace_minutes"


def _done(rule: Rule) -> str:
    if isinstance(rule.action, Close):
        return f"They get `{rule.action.column} := {rule.action.value}`, and are kept."
    return "They are deleted."


def _spared(rule: Rule) -> str:
    spared = []
    if rule.orphan_of:
        spared.append(f"rows where `{rule.orphan_of.column}` is null")
    if isinstance(rule.action, Close):
        spared.append("any other column")
    else:
        spared.append("any other table: where a delete would reach one, the rule is refused")
    return f"{', '.join(spared)}. No match and no message is ever deleted."


def static_metadata(rule: Rule) -> dict[str, str | UrlMetadataValue]:
    """What is known of a rule's table without looking at it, and a link to the rule's source."""
    link = source_link(rule, repository())
    return {"dagster/table_name": str(rule.table), **({} if link is None else {"source": MetadataValue.url(link)})}


def repository() -> str | None:
    """The address of the project's repository, from `[project.urls]`; None where none is set."""
    try:
        told = metadata.metadata(_DISTRIBUTION).get_all("Project-URL") or []
    except metadata.PackageNotFoundError:
        return None
    urls = {label.strip().lower(): url.strip() for label, _, url in (line.partition(",") for line in told)}
    return next((urls[label] for label in _WHERE_SOURCE_LIES if label in urls), None)


def source_link(rule: Rule, repository: str | None) -> str | None:
    """The address of the lines of `rules.py` where the rule stands, on the repository's default branch."""
    if repository is None:
        return None
    lines = inspect.getsource(rules).splitlines()
    line = next((number for number, text in enumerate(lines) if text.strip() == f'name="{rule.name}",'), 0)
    base = repository.removesuffix("/").removesuffix(".git")
    return f"{base}/blob/HEAD/cleanup_pipeline/rules.py#L{line}"  # the line above: where the rule begins


def observed_metadata(
    before: Footprint | None, after: Footprint | None, deleted: int
) -> dict[str, float | int | TableSchema]:
    """What was seen of a rule's table around its cleaning; empty where it could not be looked at."""
    if after is None:
        return {}
    return {
        "table_size_mb": round(after.size / 1e6, 3),
        "dagster/row_count": rows_left(before, after, deleted),
        "dagster/column_schema": TableSchema(
            columns=[
                TableColumn(name, column.type, constraints=TableColumnConstraints(nullable=column.nullable))
                for name, column in after.columns.items()
            ]
        ),
    }
