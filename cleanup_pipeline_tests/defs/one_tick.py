"""A daemon's one tick, as a process of its own: `python -m … DAGSTER_HOME TRIGGER DATABASE_URL`.

Says that it is ready, waits for a line, looks at noon of today, and executes what it has started.
"""

import sys
from typing import Literal, cast
from unittest import mock

from dagster import DagsterInstance, RunRequest

from cleanup_pipeline.defs.tick import tick
from cleanup_pipeline.gate import day
from cleanup_pipeline_tests.defs.runs import run_job
from cleanup_pipeline_tests.gate.storage import today


def main(dagster_home: str, trigger: Literal["schedule", "sensor"], url: str) -> None:
    with DagsterInstance.from_config(dagster_home) as instance:
        print("ready", flush=True)  # noqa: T201 - the test waits for it
        sys.stdin.readline()
        with mock.patch.object(day, "utc_now", return_value=today("12:00")):
            answer = tick(instance, trigger)
            if isinstance(answer, RunRequest):
                run_job(url, instance, tags={**answer.tags, "dagster/run_key": str(answer.run_key)})


if __name__ == "__main__":
    main(sys.argv[1], cast(Literal["schedule", "sensor"], sys.argv[2]), sys.argv[3])
