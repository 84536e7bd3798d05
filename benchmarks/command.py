"""The whole command where there is nothing to clean, beside Dagster's own for an empty job."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from benchmarks.database import Bench
from benchmarks.table import Row, ratio

_EMPTY_JOB = """
from dagster import Definitions, job, op

@op
def nothing(): ...

@job
def empty(): nothing()

defs = Definitions(jobs=[empty])
"""


def nothing_to_clean(bench: Bench, rows: int, rounds: int) -> Iterable[Row]:
    """`cleanup-pipeline run` against `dagster job execute` of one op that does nothing, on small and large tables."""
    for number in (10_000, rows):
        yield _against_an_empty_job(bench, number, rounds)
        bench.drop("clean")


def _against_an_empty_job(bench: Bench, rows: int, rounds: int) -> Row:
    template = bench.clean(rows)
    ours: list[float] = []
    theirs: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "empty.py")
        file.write_text(_EMPTY_JOB)
        dagster = [sys.executable, "-m", "dagster", "job", "execute", "-f", str(file), "-j", "empty"]
        cleanup = [sys.executable, "-m", "cleanup_pipeline.cli", "run", "--yes", "--reason", "benchmark"]
        for _ in range(rounds):
            theirs.append(_seconds(bench, folder, dagster))
            ours.append(bench.on_a_copy(template, partial(_seconds, bench, folder, cleanup)))
    return Row(f"nothing to clean in {rows:,} rows, the command against an empty job's", ratio(ours, theirs), "≤ 1.3")


def _seconds(bench: Bench, home: str, command: list[str], url: str = "") -> float:
    bench.drop("dagster")
    Path(home, "dagster.yaml").write_text(
        f"storage: {{postgres: {{postgres_url: '{bench.server.create_database('dagster')}'}}}}\n"
        "telemetry: {enabled: false}\n"
    )
    variables = os.environ | {"DAGSTER_HOME": home, "CLEANUP_DATABASE_URL": url}
    _run([sys.executable, "-m", "dagster", "run", "list"], variables)  # the storage's tables are made
    began = time.monotonic()
    _run(command, variables)
    return time.monotonic() - began


def _run(command: list[str], variables: dict[str, str]) -> None:
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
