"""Running the job in tests."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dagster import AssetKey, DagsterInstance, ExecuteInProcessResult

from cleanup_pipeline.definitions import defs
from cleanup_pipeline.defs.resources import Observer, PostgresResource

CHECKOUT = Path(__file__).parents[2]
JOB = defs.resolve_job_def("session_cleanup")
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
# With it a window is one page or row, and the rests make a run of a few hundred rows last for minutes.
NEVER_ENDING = {"resources": {"cleanup_run": {"config": {"window_ms": 0.001, "rest": 100.0}}}}


def run_job(
    url: str | None,
    instance: DagsterInstance | None = None,
    *,
    observer: Observer | None = None,
    config: Mapping[str, Any] | None = None,
    **arguments: Any,
) -> ExecuteInProcessResult:
    """Run `session_cleanup` on the database at `url` (None: what the environment says)."""
    return JOB.execute_in_process(
        instance=instance,
        resources={
            **({} if url is None else {"postgres": PostgresResource(url=url)}),
            "observer": observer or Observer(),
        },
        run_config={**QUIET, **(config or {})},
        raise_on_error=False,
        **arguments,
    )


def execute_job(url: str, dagster_home: Path, *arguments: str) -> "subprocess.Popen[bytes]":
    """Start `dagster job execute`, as a process of its own."""
    command = [sys.executable, "-m", "dagster", "job", "execute", "-m", "cleanup_pipeline.definitions"]
    return subprocess.Popen(
        [*command, "-j", "session_cleanup", *arguments],
        env={
            **os.environ,
            "CLEANUP_DATABASE_URL": url,
            "DAGSTER_HOME": str(dagster_home),
            "PYTHONPATH": str(CHECKOUT),
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def metadata_of(result: ExecuteInProcessResult, *asset: str) -> dict[str, Any]:
    """The metadata of the materialization of `after_hours/<asset>`."""
    (event,) = [
        event
        for event in result.get_asset_materialization_events()
        if event.asset_key == AssetKey(["after_hours", *asset])
    ]
    return {name: value.value for name, value in event.materialization.metadata.items()}


def messages_of(instance: DagsterInstance, run_id: str) -> list[str]:
    """All that the run's log says, errors included."""
    return [
        text
        for entry in instance.all_logs(run_id)
        for text in (
            entry.user_message,
            (entry.get_dagster_event().message or "") if entry.is_dagster_event else "",
            str(entry.get_dagster_event().event_specific_data) if entry.is_dagster_event else "",
        )
    ]
