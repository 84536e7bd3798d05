"""`doctor`: what preflight finds for every rule, with what to do about it."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import psycopg

from cleanup_pipeline.cli.begin import beginning, the_database
from cleanup_pipeline.cli.errors import CODES, ExitCode
from cleanup_pipeline.cli.options import Request
from cleanup_pipeline.cli.output import Stream, Streams
from cleanup_pipeline.cli.report import document
from cleanup_pipeline.cli.watch import Watch
from cleanup_pipeline.gate.old_job import QUEUE, old_jobs
from cleanup_pipeline.gate.redis_client import RedisUnavailableError
from cleanup_pipeline.gate.settings import Settings
from cleanup_pipeline.gate.signals import one_line
from cleanup_pipeline.postgres import CleanupError, Session, explain
from cleanup_pipeline.rules import Rule
from cleanup_pipeline.sweep import preflight
from cleanup_pipeline.sweep.finding import Finding, Severity
from cleanup_pipeline.sweep.result import Status, worst


@dataclass(frozen=True)
class Examined:
    """What was found about one rule; `error` where it could not be looked at."""

    rule: str
    status: Status
    findings: Sequence[Finding] = ()
    error: str | None = None


@dataclass(frozen=True)
class Diagnosis:
    """What was found about all of them, and `elsewhere`: that never keeps a rule from running."""

    examined: Sequence[Examined]
    elsewhere: Sequence[Finding] = ()

    @property
    def _status(self) -> Status:
        return worst([one.status for one in self.examined])

    @property
    def code(self) -> ExitCode:
        """What the shell is told."""
        return CODES[self._status]

    def as_json(self) -> str:
        """The one document."""
        return document(
            {
                "status": self._status.value,
                "rules": {
                    one.rule: {
                        "status": one.status.value,
                        "findings": [_as_json(finding) for finding in one.findings],
                        "error": one.error,
                    }
                    for one in self.examined
                },
                "elsewhere": [_as_json(finding) for finding in self.elsewhere],
            }
        )

    def as_text(self, _: Stream) -> str:
        """Each finding on a line, what to do on the next."""
        lines = [line for one in self.examined for line in _lines(one)]
        if self.elsewhere:
            lines += ["elsewhere:", *_lines_of(self.elsewhere)]
        return "".join(f"{line}\n" for line in lines)

    def sentences(self) -> Iterator[str]:
        """Which rules would not run."""
        for one in self.examined:
            if one.status is Status.REFUSED:
                yield f"{one.rule} would be refused."
            if one.error:
                yield f"{one.rule} can't be examined: {one.error}"


def _lines(one: Examined) -> Iterator[str]:
    yield f"{one.rule}: {'ready' if one.status is Status.SUCCESS else one.status.value}"
    yield from _lines_of(one.findings)


def _lines_of(findings: Sequence[Finding]) -> Iterator[str]:
    for finding in findings:
        yield f"  {finding.severity.value}: {finding.what}"
        if finding.do:
            yield f"    {finding.do}"


def _as_json(finding: Finding) -> dict[str, str | None]:
    return {"severity": finding.severity.value, "what": finding.what, "do": finding.do or None}


def work(request: Request, _: Streams, __: Watch) -> Diagnosis:
    """Examine every selected rule. Raises `CannotBeginError`."""
    with beginning():
        session = Session(the_database())
        session.connect()
    settings = Settings.from_environment(os.environ)
    malformed = [Finding(Severity.WARNING, f"{fault}.") for fault in settings.faults]
    with session:
        examined = [_examine(rule, session) for rule in request.rules]
    return Diagnosis(examined, [*malformed, *_look_for_the_old_job(settings)])


def _examine(rule: Rule, session: Session) -> Examined:
    try:
        report = preflight.inspect(session, rule)
    except CleanupError as error:
        return Examined(rule.name, Status.FAILED, error=str(error))
    except psycopg.Error as error:
        return Examined(rule.name, Status.FAILED, error=f"{explain(error)}.")
    return Examined(rule.name, Status.REFUSED if report.refusals else Status.SUCCESS, report.findings)


def _look_for_the_old_job(settings: Settings) -> list[Finding]:
    """Warn where Redis still plans the job that this pipeline replaces; without Redis nothing is known of it."""
    if settings.redis_url is None:
        return []
    try:
        found = old_jobs(settings.redis_url, settings.redis_prefix)
    except RedisUnavailableError as error:
        return [Finding(Severity.WARNING, f"Whether the old job still lives in Redis can't be told: {error}.")]
    return [
        Finding(
            Severity.WARNING,
            f"The old job still lives in Redis and deletes on its own: {old.kind} {one_line(old.name)} of queue {QUEUE}"
            + (f", next at {old.due.isoformat()}." if old.due else "."),
            old.how_to_remove,
        )
        for old in found
    ]
