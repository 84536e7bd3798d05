"""What a command has to say: to a program, to a person, and to the shell."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from cleanup_pipeline.cli.errors import CODES, ExitCode
from cleanup_pipeline.cli.output import Stream, Streams
from cleanup_pipeline.gate.runs import page_of
from cleanup_pipeline.rules import Rule
from cleanup_pipeline.sweep.result import Result, Status, worst

RuleReport = Mapping[str, object]

NOT_STARTED = "It was not started: the command was interrupted first."


class Answer(Protocol):
    """What a command answers."""

    @property
    def code(self) -> ExitCode:
        """What the shell is told."""

    def as_json(self) -> str:
        """The one document that goes to stdout."""

    def as_text(self, stream: Stream) -> str:
        """The same for a person who reads `stream`."""

    def sentences(self) -> Iterator[str]:
        """What stderr must say; something, where the code is not 0."""


@dataclass(frozen=True)
class Report:
    """How the selected rules ended, each in the words of the JSON; `notes` are what preflight had to say besides.

    A run that is not `recorded` has no page in the UI.
    """

    run_id: str | None
    as_of: datetime | None
    rules: Mapping[str, RuleReport]
    notes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    recorded: bool = False

    @property
    def status(self) -> Status:
        """The worst of the rules'."""
        return worst([Status(str(rule["status"])) for rule in self.rules.values()])

    @property
    def code(self) -> ExitCode:
        """What the shell is told."""
        return CODES[self.status]

    def as_json(self) -> str:
        """The one document that goes to stdout, in ASCII."""
        return document(
            {
                "run_id": self.run_id,
                "as_of": self.as_of and self.as_of.isoformat(),
                "status": self.status.value,
                "rules": {name: dict(rule) for name, rule in self.rules.items()},
            }
        )

    def as_text(self, stream: Stream) -> str:
        """A table, one row a rule."""
        from cleanup_pipeline.cli.tables import of_plan, of_run

        return of_plan(self, stream) if self.run_id is None else of_run(self, stream)

    def sentences(self) -> Iterator[str]:
        """What a person must know of rules that did not end well."""
        for name, rule in self.rules.items():
            if rule["status"] not in (Status.SUCCESS, Status.INTERRUPTED):
                was = "" if rule["status"] == Status.FAILED else "was "
                yield f"{name} {was}{rule['status']}: {rule['error']}"
        if self.status is Status.INTERRUPTED:
            yield f"Interrupted. {self._what_stays()}"
        yield from self.remarks

    def _what_stays(self) -> str:
        cleaned = [f"{rule['affected']:,} rows by {name}" for name, rule in self.rules.items() if rule.get("affected")]
        if not cleaned:
            return "Nothing was changed."
        return f"What was committed stays ({', '.join(cleaned)}); the rest is untouched."


@dataclass(frozen=True)
class Unfinished:
    """A command that only looks was interrupted: it has nothing to say."""

    code = ExitCode.INTERRUPTED

    def as_json(self) -> str:
        """No document: half an answer would be taken for a whole one."""
        return ""

    def as_text(self, _: Stream) -> str:
        """No text either."""
        return ""

    def sentences(self) -> Iterator[str]:
        """Say why there is no answer."""
        yield "Interrupted. Nothing was changed."


def tell(answer: Answer, streams: Streams, *, as_json: bool, briefly: bool = False) -> ExitCode:
    """Write an answer to where it belongs; returns its code, or a failure where it can't be written.

    `briefly` leaves out the tables: in the midst of an interrupt nothing may be imported.
    """
    code = answer.code
    try:
        if as_json:
            streams.out.write(answer.as_json())
        elif not briefly:
            streams.out.write(answer.as_text(streams.out))
    except OSError as error:
        streams.err.line(f"The report could not be written: {error.strerror}.")
        code = code or ExitCode.FAILED
    for sentence in answer.sentences():
        streams.err.line(sentence)
    return code


def document(of: Mapping[str, object]) -> str:
    """One line of JSON, in ASCII: whatever the locale, it can be written."""
    return json.dumps(of) + "\n"


def link_to(run_id: str | None) -> str | None:
    """The run's page in the UI, where it is known which that is."""
    url = os.environ.get("CLEANUP_UI_URL")
    return page_of(run_id, url) if url and run_id else None


def unfinished_run(run_id: str | None, rules: Sequence[Rule]) -> Report:
    """A run that was interrupted before anything was touched."""
    return Report(run_id, None, {rule.name: not_run(rule) for rule in rules})


def unfinished_plan(rules: Sequence[Rule]) -> Report:
    """A plan of which nothing is known yet."""
    return Report(None, None, {rule.name: not_planned() for rule in rules})


def not_run(rule: Rule) -> RuleReport:
    """A rule that an interrupt kept from beginning."""
    return Result(rule.name, Status.INTERRUPTED, error=NOT_STARTED).as_json()


def not_planned() -> RuleReport:
    """A rule that an interrupt kept from being counted."""
    unknown = dict.fromkeys(("candidates", "share", "oldest", "undated", "access", "expected_s"))
    return {"status": Status.INTERRUPTED.value, **unknown, "error": NOT_STARTED}
