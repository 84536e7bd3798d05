"""What a sweep would do, measured without doing it."""

import threading
from dataclasses import dataclass, field
from functools import partial

import psycopg

from cleanup_pipeline.postgres import CleanupError, Session, explain
from cleanup_pipeline.rules import Close, Rule
from cleanup_pipeline.sweep import access, judgement, preflight
from cleanup_pipeline.sweep.catalog import Catalog
from cleanup_pipeline.sweep.finding import RefusedError
from cleanup_pipeline.sweep.fuse import Fuse, count_rows, scans
from cleanup_pipeline.sweep.judgement import Orphans
from cleanup_pipeline.sweep.moment import earliest
from cleanup_pipeline.sweep.reader import InterruptedSweepError, Reader
from cleanup_pipeline.sweep.result import Status
from cleanup_pipeline.sweep.statements import Statements
from cleanup_pipeline.sweep.target import Target
from cleanup_pipeline.sweep.work import Options, statements_for

# Rough, measured at the default pace, rests included, on two cores: to read a page, to judge a row, and to clean one.
_PAGE_S, _JUDGE_S = 50e-6, 40e-6
_CLOSE_S, _DELETE_S, _ORPHAN_S = 230e-6, 40e-6, 100e-6


@dataclass(slots=True)
class Plan:
    """What a sweep of `rule` would do now.

    `candidates` is how many rows are due, `oldest` the time of the oldest of them as PostgreSQL writes it, `undated`
    how many rows have no age and so will never be due. `share` is the part of the table that is due, and `expected_s`
    how many seconds a sweep at the default pace would take: both rough.
    """

    rule: str
    status: Status = Status.SUCCESS
    candidates: int | None = None
    share: float | None = None
    oldest: str | None = None
    undated: int | None = None
    access: str | None = None
    expected_s: float | None = None
    error: str | None = None
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, object]:
        """The rule's part of the JSON of `plan`."""
        return {
            "status": self.status.value,
            "candidates": self.candidates,
            "share": None if self.share is None else round(self.share, 4),
            "oldest": self.oldest,
            "undated": self.undated,
            "access": self.access,
            "expected_s": None if self.expected_s is None else round(self.expected_s, 1),
            "error": self.error,
            "notes": self.notes,
        }


def plan(rule: Rule, session: Session, options: Options, stop: threading.Event | None = None) -> Plan:
    """Measure what a sweep would do. Writes nothing; no expected failure is raised, the plan tells it."""
    planned = Plan(rule.name)
    reader = Reader(session, options.pace, stop or threading.Event())
    try:
        report = reader.patiently(lambda: preflight.inspect(session, rule, deep=options.deep))
        target = preflight.accept(report)
        planned.notes = [str(finding) for finding in report.findings]
        _measure(planned, target, reader, options)
    except RefusedError as refused:
        planned.status, planned.error = Status.REFUSED, str(refused)
    except InterruptedSweepError as interrupted:
        planned.status, planned.error = Status.INTERRUPTED, str(interrupted)
    except CleanupError as error:
        planned.status, planned.error = Status.FAILED, str(error)
    except psycopg.Error as error:
        planned.status, planned.error = (
            Status.FAILED,
            f"{rule.name} can't be planned on {rule.table}: {explain(error)}.",
        )
    return planned


def _measure(planned: Plan, target: Target, reader: Reader, options: Options) -> None:
    statements = statements_for(target, options)
    if target.guard:
        planned.access = f"guarded by {target.guard}"
        planned.candidates, planned.undated = 0, 0
        planned.share, planned.expected_s = 0.0, 0.0
        return
    orphans: Orphans | None = None
    if target.rule.orphan_of:
        orphans = _measure_orphans(planned, target, statements, reader)
    else:
        _measure_due(planned, target, statements, reader)
    planned.candidates = planned.candidates or 0
    _expect(planned, target, reader)
    if orphans:
        _check_fuse(orphans, target, statements, reader, options)
    planned.notes += scans(planned.candidates, target.scanned_pages, target.rule.table)
    planned.undated = _count_undated(target, statements, reader) if target.age_may_be_null else 0


def _expect(planned: Plan, target: Target, reader: Reader) -> None:
    oids = [leaf.oid for leaf in target.leaves]
    rows, _ = reader.once(lambda transaction: Catalog(transaction).size(oids))
    pages = reader.once(lambda transaction: Catalog(transaction).pages(oids))
    due = planned.candidates or 0
    planned.share = min(due / rows, 1.0) if rows else (0.0 if due == 0 else None)
    if target.rule.orphan_of:
        planned.expected_s = rows * _JUDGE_S + due * _ORPHAN_S
    else:
        each_s = _CLOSE_S if isinstance(target.rule.action, Close) else _DELETE_S
        planned.expected_s = due * each_s + pages * _PAGE_S


def _measure_due(planned: Plan, target: Target, statements: Statements, reader: Reader) -> None:
    for leaf in target.leaves:
        way = access.choose(reader, statements, leaf)
        planned.access = way.why
        for _, due, oldest in access.count_due(reader, statements, leaf, way):
            planned.candidates = (planned.candidates or 0) + due
            planned.oldest = earliest(planned.oldest, oldest)


def _measure_orphans(planned: Plan, target: Target, statements: Statements, reader: Reader) -> Orphans:
    planned.access = "judged against the parent's key, then by address"
    orphans = Orphans()
    for leaf in target.leaves:
        for _, found in reader.slices(
            statements, leaf, partial(judgement.count, statements), at_once=not target.parent_is_indexed
        ):
            orphans += found
            planned.candidates, planned.oldest = orphans.rows, orphans.oldest
    return orphans


def _check_fuse(orphans: Orphans, target: Target, statements: Statements, reader: Reader, options: Options) -> None:
    fuse = Fuse(target.rule.max_share if options.max_share is None else options.max_share)
    rows = sum(found for _, found in count_rows(reader, statements, fuse.rows_needed(orphans.rows)))
    try:
        fuse.check(orphans.rows, rows, target.rule.table)
    except RefusedError as refused:
        raise RefusedError(f"{refused} {orphans.when}") from None


def _count_undated(target: Target, statements: Statements, reader: Reader) -> int:
    return sum(
        undated
        for leaf in target.leaves
        for _, (undated,) in reader.slices(
            statements, leaf, lambda transaction, leaf, blocks: transaction.one(statements.count_undated(leaf, blocks))
        )
    )
