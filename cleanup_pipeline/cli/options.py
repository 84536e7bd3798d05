"""What may be asked of a command, and what it comes to."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import click

from cleanup_pipeline.cli.output import legible
from cleanup_pipeline.gate import tags
from cleanup_pipeline.rules import RULES_ON, Rule
from cleanup_pipeline.sweep.as_of import parse_as_of

C = TypeVar("C", bound=Callable[..., Any])

_MOST = 10**15


def _new_run_id() -> str:
    from uuid import uuid4  # 5 ms that a usage error need not wait for

    return str(uuid4())


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a command was asked to do. `as_of` can be read, but may lie in the future."""

    rules: tuple[Rule, ...]
    as_of: str | None = None
    retention_days: int | None = None
    deep: bool = False
    full_speed: bool = False
    max_rows: int | None = None
    max_seconds: int | None = None
    allow_share: float | None = None
    reason: str | None = None
    role: str | None = None
    at: str | None = None
    record: bool = True
    sure: bool = False
    as_json: bool = False
    run_id: str = field(default_factory=_new_run_id)

    def age(self, rule: Rule) -> timedelta | None:
        """The age that replaces the rule's own."""
        return timedelta(days=self.retention_days) if self.retention_days is not None and _retains(rule) else None


def _whole_number(least: int, most: int = _MOST) -> Callable[[str], int]:
    """Read a whole number in plain digits."""

    def read(given: str) -> int:
        if not re.fullmatch(r"[0-9]{1,18}", given) or not least <= int(given) <= most:
            upto = "on" if most == _MOST else f"to {most}"
            raise click.BadParameter(f"{given!r} is not a whole number from {least} {upto}.")
        return int(given)

    return read


def _share(given: str) -> float:
    """Read a share above 0, up to 1."""
    if not re.fullmatch(r"[0-9]*\.?[0-9]+", given) or not 0 < float(given) <= 1:
        raise click.BadParameter(f"{given!r} is not a share above 0 and up to 1, such as 0.4.")
    return float(given)


def _instant(name: str) -> Callable[[str], str]:
    """Let through what can be read as an instant with a zone."""

    def read(given: str) -> str:
        try:
            parse_as_of(given, name)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None
        return given

    return read


def _together(options: Sequence[Callable[[C], C]]) -> Callable[[C], C]:
    def add(command: C) -> C:
        for option in reversed(options):
            command = option(command)
        return command

    return add


rule_option: Callable[[C], C] = click.option(
    "--rule",
    "names",
    multiple=True,
    metavar="R",
    type=click.Choice([rule.name for rule in RULES_ON]),
    help=f"Only this rule; may be given again. Rules: {', '.join(rule.name for rule in RULES_ON)}.",
)
at_option: Callable[[C], C] = click.option(
    "--at",
    type=_instant("T"),
    metavar="T",
    help="When it finished, ISO 8601 with a zone, not in the future. Default: now.",
)
json_option: Callable[[C], C] = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")

what_options: Callable[[C], C] = _together(
    [
        rule_option,
        click.option(
            "--as-of",
            type=_instant("as_of"),
            metavar="T",
            help="Measure age against this instant, ISO 8601 with a zone, not in the future. Default: now.",
        ),
        click.option(
            "--retention-days",
            type=_whole_number(1, 36500),
            metavar="N",
            help="Days that declines are kept, for this time. Default: 7.",
        ),
        click.option("--deep", is_flag=True, help="Look for orphans also where a foreign key rules them out."),
        json_option,
    ]
)
"""What a plan is made of."""

how_options: Callable[[C], C] = _together(
    [
        click.option("--dry-run", is_flag=True, help="Only count what would go, as `plan` does."),
        click.option("--full-speed", is_flag=True, help="As fast as the server can; the app will feel it."),
        click.option("--max-rows", type=_whole_number(1), metavar="N", help="Clean at most N rows, over all rules."),
        click.option("--max-seconds", type=_whole_number(1), metavar="N", help="Stop cleanly after N seconds."),
        click.option(
            "--allow-share",
            type=_share,
            metavar="F",
            help="Let an orphan rule take up to this share of its table, for this time; needs --reason.",
        ),
        click.option("--reason", metavar="TEXT", help="Why; shown with the run in Dagster."),
        click.option("--no-record", is_flag=True, help="Run without Dagster's storage, for when that is down."),
        click.option("--yes", is_flag=True, help="Don't ask before more than a million rows go."),
    ]
)
"""How a run goes about it."""


def request_for(
    *,
    names: Sequence[str] = (),
    reason: str | None = None,
    no_record: bool = False,
    yes: bool = False,
    **given: Any,
) -> Request:
    """What was asked for, checked as far as that is possible without a database. Raises `click.UsageError`."""
    reason = as_text(reason or "") or None
    if len(reason or "") > tags.LONGEST:
        raise click.UsageError(f"--reason has more than {tags.LONGEST} characters: shorten it.")
    request = Request(
        rules=tuple(rule for rule in RULES_ON if not names or rule.name in names),
        reason=reason,
        record=not no_record,
        sure=yes,
        **given,
    )
    if request.retention_days is not None and not any(_retains(rule) for rule in request.rules):
        kept = ", ".join(rule.name for rule in RULES_ON if _retains(rule))
        raise click.UsageError(f"--retention-days is for {kept}, which is not selected.")
    if request.allow_share is not None and request.reason is None:
        raise click.UsageError("--allow-share lifts a safety limit: say why, with --reason.")
    return request


def as_text(told: str) -> str:
    """What an argument or variable says, as text that can be stored and shown.

    Bytes that the locale can't read are most often UTF-8; one that is no text would be refused by whoever stores it.
    """
    return legible(told.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))


def _retains(rule: Rule) -> bool:
    return rule.age is not None and rule.age.kind == "retention"
