"""`status`: the gate, the last runs, the next tick, the backlog. Whatever can't be looked at is told, and no error."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime

import psycopg
from dagster import DagsterInstance

from cleanup_pipeline.cli import ongoing
from cleanup_pipeline.cli.begin import options_for, the_database
from cleanup_pipeline.cli.errors import ExitCode
from cleanup_pipeline.cli.options import Request
from cleanup_pipeline.cli.output import Stream, Streams, legible
from cleanup_pipeline.cli.report import document
from cleanup_pipeline.cli.storage import Storage, StorageError, find_storage
from cleanup_pipeline.cli.watch import Watch
from cleanup_pipeline.gate import day
from cleanup_pipeline.gate.dagster_facts import latest_runs
from cleanup_pipeline.gate.decision import Decision
from cleanup_pipeline.gate.look import look
from cleanup_pipeline.gate.pause import SCHEDULE, Pause, find_pause
from cleanup_pipeline.gate.runs import JOB, DayRun
from cleanup_pipeline.gate.signals import Signal, describe
from cleanup_pipeline.postgres import CleanupError, Session, explain
from cleanup_pipeline.sweep.as_of import choose_as_of
from cleanup_pipeline.sweep.plan import Plan, plan

_RUNS_SHOWN = 10
_RUN_HEADINGS = ("run", "day", "trigger", "status", "started (UTC)", "ended", "by whom and why")


@dataclass(frozen=True)
class Standing:
    """How things stand at `now`; `troubles` are what could not be looked at, a sentence each.

    Where Dagster's storage is out of reach, its runs and whether the pipeline is paused are not `known`.
    """

    now: datetime
    gate: Decision
    runs: Sequence[DayRun]
    backlog: Sequence[Plan]
    troubles: Sequence[str]
    pause: Pause | None = None
    ongoing: Sequence[str] = ()
    known: bool = True

    code = ExitCode.DONE

    @property
    def next_tick(self) -> datetime | None:
        """When the schedule looks next; None while it is off, or may be."""
        if not self.known or (self.pause is not None and SCHEDULE in self.pause.off):
            return None
        today = day.utc_day(self.now)
        due = day.nightly(today)
        return due if self.now < due else day.nightly(day.next_day(today))

    def as_json(self) -> str:
        """The one document."""
        return document(
            {
                "gate": self.gate.to_json(),
                "paused": self.pause and self.pause.to_json(),
                "next_tick": self.next_tick and self.next_tick.isoformat(),
                "runs": [run.to_json() for run in self.runs],
                "rules": {
                    planned.rule: {"candidates": planned.candidates, "oldest": planned.oldest}
                    for planned in self.backlog
                },
            }
        )

    def as_text(self, stream: Stream) -> str:
        """The same for a person."""
        from cleanup_pipeline.cli.tables import minute, table

        runs = [_in_cells(run, self.now) for run in self.runs]
        backlog = [(planned.rule, planned.candidates, minute(planned.oldest)) for planned in self.backlog]
        return (
            f"{legible(f'Gate: {self.gate.state}. {self.gate.reason}')}\n"
            f"{legible(self._when_next())}\n\n"
            + (table(_RUN_HEADINGS, runs, stream) if runs else self._no_runs)
            + "".join(f"{legible(sentence)}\n" for sentence in self.ongoing)
            + f"\n{table(('rule', 'rows to clean', 'oldest'), backlog, stream)}"
        )

    @property
    def _no_runs(self) -> str:
        return "No runs.\n" if self.known else "What runs there are is unknown.\n"

    def _when_next(self) -> str:
        if not self.known:
            return "Whether it is paused is unknown."
        tick = f"Next tick: {self.next_tick:%Y-%m-%d %H:%M} UTC" if self.next_tick else "No tick comes"
        if self.pause is None:
            return f"Not paused. {tick}"
        return f"{self.pause.sentence()} {tick}; cleanup-pipeline resume goes on."

    def sentences(self) -> Iterator[str]:
        """What could not be looked at."""
        yield from self.troubles


def _in_cells(run: DayRun, now: datetime) -> tuple[object, ...]:
    """A run in a table's row; what words there are come last."""
    status = "lost" if run.is_lost(now) else run.status
    why = ": ".join(part for part in (run.by, run.reason) if part) or None
    return run.run_id, run.day, run.trigger, status, _utc(run.started), _utc(run.ended), why


def _utc(instant: datetime | None) -> str | None:
    return f"{instant:%Y-%m-%d %H:%M:%S}" if instant else None


def work(request: Request, _: Streams, __: Watch) -> Standing:
    """Look at everything that can be looked at."""
    now = day.utc_now()
    troubles: list[str] = []
    with ExitStack() as stack:
        instance = _instance(stack, troubles)
        if instance is None:
            gate, runs, paused = _gate_without_dagster(stack, now, troubles[0]), [], None
            on: list[str] = []
        else:
            gate, runs = look(instance, now, os.environ), _runs(instance, troubles)
            paused = _pause(instance, troubles)
            on = _ongoing(instance, [run for run in runs if run.is_on(now)])
    backlog = _backlog(request, troubles)
    return Standing(now, gate, runs, backlog, troubles, paused, on, known=instance is not None)


def _instance(stack: ExitStack, troubles: list[str]) -> DagsterInstance | None:
    """Dagster's instance, closed with `stack`, where it can be opened."""
    try:
        storage = find_storage(record=True)
        if storage.home is None:
            troubles.append("DAGSTER_HOME is not set: what Dagster knows can't be looked at.")
            return None
        storage.reach()
        return stack.enter_context(storage.instance())
    except StorageError as error:
        troubles.append(error.message)
        return None


def _gate_without_dagster(stack: ExitStack, now: datetime, trouble: str) -> Decision:
    """What the gate can say by its other signals and settings."""
    decision = look(stack.enter_context(Storage().instance()), now, os.environ)
    return replace(
        decision,
        reason=f"{trouble} {decision.reason}",
        signal=decision.signal and _unreachable(decision.signal),
        signals=tuple(_unreachable(signal) for signal in decision.signals),
    )


def _unreachable(signal: Signal) -> Signal:
    return replace(signal, state="unreachable") if signal.source in ("dagster_run", "materialization") else signal


def _runs(instance: DagsterInstance, troubles: list[str]) -> list[DayRun]:
    try:
        return latest_runs(instance, JOB, _RUNS_SHOWN)
    except Exception as error:
        troubles.append(f"The last runs can't be read: {describe(error)}.")
        return []


def _ongoing(instance: DagsterInstance, runs: Sequence[DayRun]) -> list[str]:
    """What Dagster knows of them: a run from a command line that was killed is on record as running for a while."""
    try:
        each = [ongoing.told(instance, run.run_id, f"Recorded as {run.status}:") for run in runs]
        return [said for said in each if said]
    except Exception:
        return []  # it has just answered; that they are on is told all the same


def _pause(instance: DagsterInstance, troubles: list[str]) -> Pause | None:
    try:
        return find_pause(instance)
    except Exception as error:
        troubles.append(f"Whether it is paused can't be read: {describe(error)}.")
        return None


def _backlog(request: Request, troubles: list[str]) -> list[Plan]:
    """What there is to clean; unknown, with the trouble told, where the database can't be looked at."""
    try:
        with Session(the_database()) as session:
            as_of = choose_as_of(session, None)
            backlog = [plan(rule, session, options_for(request, rule, as_of)) for rule in request.rules]
    except CleanupError as error:
        troubles.append(str(error))
        return [Plan(rule.name) for rule in request.rules]
    except psycopg.Error as error:
        troubles.append(f"The database does not answer as it should: {explain(error)}.")
        return [Plan(rule.name) for rule in request.rules]
    troubles += [f"{planned.rule}: {planned.error}" for planned in backlog if planned.error]
    return backlog
