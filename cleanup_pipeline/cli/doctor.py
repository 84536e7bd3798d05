"""`doctor`: what preflight finds for every rule, with what to do about it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import psycopg

from cleanup_pipeline.cli.begin import beginning, the_database
from cleanup_pipeline.cli.errors import CODES, ExitCode
from cleanup_pipeline.cli.options import Request
from cleanup_pipeline.cli.output import Stream, Streams
from cleanup_pipeline.cli.report import document
from cleanup_pipeline.cli.watch import Watch
from cleanup_pipeline.postgres import CleanupError, Session, explain
from cleanup_pipeline.rules import Rule
from cleanup_pipeline.sweep import preflight
from cleanup_pipeline.sweep.finding import Finding
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
    """What was found about all of them."""

    examined: Sequence[Examined]

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
                        "findings": [
                            {"severity": finding.severity.value, "what": finding.what, "do": finding.do or None}
                            for finding in one.findings
                        ],
                        "error": one.error,
                    }
                    for one in self.examined
                },
            }
        )

    def as_text(self, _: Stream) -> str:
        """Each finding on a line, what to do on the next."""
        return "".join(f"{line}\n" for one in self.examined for line in _lines(one))

    def sentences(self) -> Iterator[str]:
        """Which rules would not run."""
        for one in self.examined:
            if one.status is Status.REFUSED:
                yield f"{one.rule} would be refused."
            if one.error:
                yield f"{one.rule} can't be examined: {one.error}"


def _lines(one: Examined) -> Iterator[str]:
    yield f"{one.rule}: {'ready' if one.status is Status.SUCCESS else one.status.value}"
    for finding in one.findings:
        yield f"  {finding.severity.value}: {finding.what}"
        if finding.do:
            yield f"    {finding.do}"


def work(request: Request, _: Streams, __: Watch) -> Diagnosis:
    """Examine every selected rule. Raises `CannotBeginError`."""
    with beginning():
        session = Session(the_database())
        session.connection  # noqa: B018 -- to see whether there is one
    with session:
        return Diagnosis([_examine(rule, session) for rule in request.rules])


def _examine(rule: Rule, session: Session) -> Examined:
    try:
        report = preflight.inspect(session, rule)
    except CleanupError as error:
        return Examined(rule.name, Status.FAILED, error=str(error))
    except psycopg.Error as error:
        return Examined(rule.name, Status.FAILED, error=f"{explain(error)}.")
    return Examined(rule.name, Status.REFUSED if report.refusals else Status.SUCCESS, report.findings)
