"""What is checked of each asset: the backlog, the age, preflight. The op that carries out the rule yields them.

Every way in which a rule can end has an answer to each, but a superseded run: that one has looked at nothing.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from dagster import AssetCheckResult, AssetCheckSeverity, AssetCheckSpec, AssetKey

from cleanup_pipeline.rules import OVERDUE_AFTER, Rule
from cleanup_pipeline.sweep.finding import Finding, Severity
from cleanup_pipeline.sweep.moment import is_before
from cleanup_pipeline.sweep.result import Result, Status
from cleanup_pipeline.sweep.statements import overdue_before

BACKLOG = "backlog"
AGE = "age"
PREFLIGHT = "preflight"

_LIMITED = "the run's limit on rows or time was reached"
_ABOUT = {
    BACKLOG: "No row is left that the rule should have cleaned. Rows that were locked meanwhile are a warning.",
    AGE: "No row had been due for longer than a day (and two hours, as a night may begin late): one that had was left "
    "by an earlier night. A warning where this night has cleaned it, an error where it is still there.",
    PREFLIGHT: "Schema, privileges, cascades, parents, clock and version are as the rule needs them. What is odd is a "
    "warning, what keeps the rule from running an error.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What a rule's result does not tell of its night.

    `as_of` is None where the run could not begin; `age` replaces the rule's own. `limited`: the run's rows or time were
    used up. `clean_at` is the `as_of` of the last night before this one that left nothing behind, where one is known.
    """

    as_of: datetime | None
    age: timedelta | None
    limited: bool
    clean_at: datetime | None


def specs_of(rule: Rule) -> list[AssetCheckSpec]:
    """The checks of a rule's asset."""
    return [AssetCheckSpec(name, asset=AssetKey(rule.asset), description=about) for name, about in _ABOUT.items()]


def results_of(rule: Rule, result: Result, night: Circumstances) -> Iterator[AssetCheckResult]:
    """The answer to every check of the rule's asset, whatever end the rule came to."""
    answers = {BACKLOG: _backlog(result, night), AGE: _age(rule, result, night), PREFLIGHT: _preflight(result)}
    for name, answer in answers.items():
        yield AssetCheckResult(
            asset_key=AssetKey(rule.asset),
            check_name=name,
            passed=answer.passed,
            severity=answer.severity,
            description=answer.why,
            metadata=answer.metadata,
        )


@dataclass(frozen=True, slots=True)
class _Answer:
    passed: bool
    severity: AssetCheckSeverity
    why: str
    metadata: Mapping[str, float | str]


def _passed(why: str, **metadata: float | str) -> _Answer:
    return _Answer(True, AssetCheckSeverity.ERROR, why, metadata)


def _warning(why: str, **metadata: float | str) -> _Answer:
    return _Answer(False, AssetCheckSeverity.WARN, why, metadata)


def _error(why: str, **metadata: float | str) -> _Answer:
    return _Answer(False, AssetCheckSeverity.ERROR, why, metadata)


def _backlog(result: Result, night: Circumstances) -> _Answer:
    left = result.remaining
    done: dict[str, float | str] = {"rows_affected": result.affected}
    if left is None:
        unknown = _unknown(result)
        return replace(unknown, why=f"{unknown.why} {result.affected:,} rows were cleaned.", metadata=done)
    told = done | {"rows_remaining": left}
    if not left:
        return _passed("Nothing that is due is left.", **told)
    said = f"{left:,} rows that are due are left"
    if result.status is Status.SUCCESS and not night.limited:
        return _warning(f"{said}: they were locked or changed meanwhile.", **told)
    why = result.error or _LIMITED
    return _error(f"{said}: {why.removesuffix('.')}.", **told)


def _age(rule: Rule, result: Result, night: Circumstances) -> _Answer:
    """An orphan's own age tells when it was made, not since when it is one: there the last clean night answers."""
    if rule.orphan_of:
        return _age_of_orphans(result, night)
    if result.oldest is None or night.as_of is None:
        return _passed("Nothing was due.") if result.remaining == 0 else _unknown(result)
    limit = _limit(rule, night, night.as_of)
    told: dict[str, float | str] = {"oldest_seen": result.oldest, **_waited_h(result.oldest, limit)}
    if is_before(result.oldest, limit):
        said = f"A row was there that should have gone on an earlier night: its time is {result.oldest}"
        if result.remaining == 0:
            return _warning(f"{said}. It is clean now.", **told)
        return _error(f"{said}, and not everything is cleaned.", **told)
    if result.status is not Status.SUCCESS:
        return _unknown(result)
    return _passed("Everything that was due had become so since the night before.", **told)


def _waited_h(oldest: str, limit: datetime) -> dict[str, float]:
    """For how many hours the oldest row that was seen had been due, for the plot; nothing for a time unknown to Python.

    Once a row is overdue, older ones are not looked for.
    """
    try:
        since = limit + OVERDUE_AFTER - datetime.fromisoformat(oldest)
    except (ValueError, OverflowError):
        return {}
    return {"was_due_for_at_least_h": round(since / timedelta(hours=1), 2)}


def _limit(rule: Rule, night: Circumstances, as_of: datetime) -> datetime:
    return overdue_before(as_of, None if rule.age is None else night.age or rule.age.default)


def _age_of_orphans(result: Result, night: Circumstances) -> _Answer:
    if result.remaining is None or night.as_of is None:
        return _unknown(result)
    if not result.affected and not result.remaining:
        return _passed("There was no orphan.")
    if night.clean_at is None:
        return _passed("No earlier night is on record: since when there have been orphans can't be told.")
    since = f"The last night that left no orphan was {night.clean_at:%Y-%m-%d %H:%M} UTC"
    if night.as_of - night.clean_at <= OVERDUE_AFTER:
        return _passed(f"{since}.")
    return _warning(f"{since}: some may have been there for longer than a day.")


def _preflight(result: Result) -> _Answer:
    findings = result.findings
    if result.status is Status.REFUSED:
        refusals = _told(findings, Severity.REFUSAL)
        return _error(result.error or "Refused.", **({"refusals": refusals} if refusals else {}))
    if findings is None:
        return _unknown(result)
    notes = {"notes": told} if (told := _told(findings, Severity.NOTE)) else {}
    if warnings := _told(findings, Severity.WARNING):
        return _warning(warnings, **notes)
    return _passed("Everything is as the rule needs it.", **notes)


def _told(findings: list[Finding] | None, severity: Severity) -> str:
    return "\n".join(str(finding) for finding in findings or () if finding.severity is severity)


def _unknown(result: Result) -> _Answer:
    """Nobody has looked, or not to the end: no answer is no good answer."""
    said = " ".join(part for part in (f"Not known: the rule {_ENDED[result.status]}.", result.error) if part)
    return _warning(said) if result.status in (Status.SKIPPED, Status.INTERRUPTED, Status.SUCCESS) else _error(said)


_ENDED = {
    Status.SUCCESS: f"was not looked at to its end, {_LIMITED}",
    Status.SKIPPED: "was skipped",
    Status.INTERRUPTED: "did not come to its end",
    Status.FAILED: "failed",
    Status.REFUSED: "was refused",
}
