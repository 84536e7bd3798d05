"""Carrying out the job through Dagster, in this process, and what came of it."""

import getpass
import os
import platform
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress

from dagster import DagsterInstance, ExecuteInProcessResult

from cleanup_pipeline.cli import ongoing
from cleanup_pipeline.cli.errors import bug
from cleanup_pipeline.cli.options import Request, as_text
from cleanup_pipeline.cli.report import Report, RuleReport, link_to, not_run
from cleanup_pipeline.definitions import defs
from cleanup_pipeline.defs.resources import Observer
from cleanup_pipeline.gate import tags
from cleanup_pipeline.gate.dagster_facts import REPOSITORY_TAG
from cleanup_pipeline.gate.runs import JOB
from cleanup_pipeline.rules import Rule
from cleanup_pipeline.sweep.result import Progress, Result, Status

# The location's name in workspace.yaml. Without it, runs like ours are missing from the job's list in the UI.
_REPOSITORY = "__repository__@cleanup_pipeline"

_RUN_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_RECORDING_TAKES_S = 1.0


class Observed(Observer):
    """What is known of a run while it goes on: results as they come, and how far each rule is."""

    def __init__(self, request: Request, stop: threading.Event, *, recorded: bool) -> None:
        super().__init__()
        self.stop = stop
        self.request = request
        self.recorded = recorded
        self.latest: dict[str, Progress] = {}

    def progress(self, progress: Progress) -> None:
        """Keep how far a rule is."""
        self.latest[progress.rule] = progress

    def so_far(self, *remarks: str) -> Report:
        """What is to be told where the process ends now."""
        return self.report({rule.name: self._cut_short(rule) for rule in self.request.rules}, *remarks)

    def report(self, others: Mapping[str, RuleReport], *remarks: str) -> Report:
        """What came of each rule; `others` tells of those that have no result."""
        known = {name: result.as_json() for name, result in self.results.items()}
        rules = {rule.name: known.get(rule.name) or others[rule.name] for rule in self.request.rules}
        notes = {name: result.notes for name, result in self.results.items()}
        return Report(self.request.run_id, self.as_of, rules, notes, remarks, recorded=self.recorded)

    def _cut_short(self, rule: Rule) -> RuleReport:
        latest = self.latest.get(rule.name)
        if latest is None:
            return not_run(rule)
        error = "It was ended at once; the window under way was not committed, or is not counted."
        return Result(rule.name, Status.INTERRUPTED, affected=latest.affected, error=error).as_json()


def execute(request: Request, instance: DagsterInstance, observed: Observed) -> Report:
    """Run the job for the rules that were asked for. Raises nothing: what goes wrong is told of the rules it hit."""
    try:
        outcome = defs.resolve_job_def(JOB).execute_in_process(
            instance=instance,
            run_id=request.run_id,
            raise_on_error=False,
            op_selection=[rule.op for rule in request.rules],
            tags=_tags(request),
            run_config=_run_config(request),
            resources={"observer": observed},
        )
    except Exception as error:
        _is_recorded_in_time(_record_as_failed, instance, request.run_id)
        return observed.report(_without_result(request, observed, {}, bug(error)))
    remarks = [] if outcome.success or _told(observed) else ["Dagster could not record the end of the run."]
    remarks += _of_runs_met(instance, observed)
    return observed.report(_without_result(request, observed, _errors(outcome)), *remarks)


def ended_at_once(instance: DagsterInstance, observed: Observed) -> Report:
    """What is to be told where the process ends now; a run that is recorded is canceled there."""
    if not observed.recorded:
        return observed.so_far()
    run_id = observed.request.run_id
    if _is_recorded_in_time(_record_as_canceled, instance, run_id):
        return observed.so_far()
    return observed.so_far(
        f"Dagster's storage did not take the end of run {run_id}: it is listed as running until Dagster's run "
        "monitoring ends it, or Terminate in the UI does."
    )


def _is_recorded_in_time(
    record: Callable[[DagsterInstance, str], None], instance: DagsterInstance, run_id: str
) -> bool:
    """Whether the storage took a run's end soon: one that does not answer must not keep anybody who wants out."""
    recording = threading.Thread(target=record, args=(instance, run_id), daemon=True)
    recording.start()
    recording.join(_RECORDING_TAKES_S)
    return not recording.is_alive()


def _record_as_canceled(instance: DagsterInstance, run_id: str) -> None:
    run = instance.get_run_by_id(run_id)
    if run is not None and not run.is_finished:
        instance.report_run_canceled(run, "The command was ended at once.")


def _record_as_failed(instance: DagsterInstance, run_id: str) -> None:
    """End a run that was recorded before it failed to begin; nobody else would."""
    with suppress(Exception):
        run = instance.get_run_by_id(run_id)
        if run is not None and not run.is_finished:
            instance.report_run_failed(run, "The command could not carry it out.")


def _of_runs_met(instance: DagsterInstance, observed: Observed) -> list[str]:
    """Who started the run that held a rule, and how far it is, as far as the storage knows."""
    skipped = [result.error or "" for result in observed.results.values() if result.status is Status.SKIPPED]
    run_ids = dict.fromkeys(met[0] for error in skipped if (met := _RUN_ID.search(error)))
    try:
        return [
            _with_where(said, run_id)
            for run_id in run_ids
            if (said := ongoing.told(instance, run_id, "The run that is on is"))
        ]
    except Exception:
        return []  # the storage: what was done is told all the same


def _with_where(said: str, run_id: str) -> str:
    return said if link_to(run_id) else f"{said} cleanup-pipeline status shows it."


def _told(observed: Observed) -> bool:
    """Whether the rules themselves say why the run did not succeed."""
    return len(observed.results) < len(observed.request.rules) or any(
        result.status is not Status.SUCCESS for result in observed.results.values()
    )


def _without_result(
    request: Request, observed: Observed, errors: Mapping[str, str], otherwise: str = "Dagster ended the run."
) -> dict[str, RuleReport]:
    """Rules that never began, by an interrupt, or whose step died."""
    interrupted = observed.stop.is_set()
    return {
        rule.name: not_run(rule)
        if interrupted and rule.op not in errors
        else Result(
            rule.name, Status.FAILED, error=f"Its step ended without a result. {errors.get(rule.op, otherwise)}"
        ).as_json()
        for rule in request.rules
        if rule.name not in observed.results
    }


def _errors(outcome: ExecuteInProcessResult) -> dict[str, str]:
    """Why steps failed, by op; only the error's kind, since its text may hold data or a URL."""
    return dict(_kinds(outcome))


def _kinds(outcome: ExecuteInProcessResult) -> Iterator[tuple[str, str]]:
    for event in outcome.all_events:
        if event.is_step_failure and event.step_key is not None:
            error = event.step_failure_data.error
            cause = error.cause if error and error.cause else error
            yield event.step_key, f"It failed with {cause.cls_name if cause else 'an error'}."


def _tags(request: Request) -> dict[str, str]:
    asked = {
        tags.BY: _operator(),
        tags.REASON: request.reason,
        tags.ALLOW_SHARE: None if request.allow_share is None else str(request.allow_share),
    }
    return {
        tags.TRIGGER: "manual",
        REPOSITORY_TAG: _REPOSITORY,
        **{tag: value for tag, value in asked.items() if value},
    }


def _operator() -> str:
    """Who types, and where; as the machine knows it, which in a container is little."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # there is a number only
        user = f"user {os.getuid()}"
    return as_text(f"{user}@{platform.node()}")[: tags.LONGEST]


def _run_config(request: Request) -> dict[str, object]:
    """The same that the launchpad takes."""
    asked = {
        "as_of": request.as_of,
        "max_rows": request.max_rows,
        "max_seconds": request.max_seconds,
        "allow_share": request.allow_share,
        "full_speed": request.full_speed or None,
        "deep": request.deep or None,
    }
    return {
        "ops": {
            rule.op: {"config": {"retention_days": request.retention_days}}
            for rule in request.rules
            if request.age(rule) is not None
        },
        "resources": {"cleanup_run": {"config": {name: value for name, value in asked.items() if value is not None}}},
        # The report tells it better.
        "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
    }
