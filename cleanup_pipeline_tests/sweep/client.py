"""A run of every rule as a process of its own, to be killed, frozen and cut off: `python -m … URL PACE [forever]`.

At the end it prints, as JSON, what became of each rule, as in `run --json`. With `forever` it runs the rules time and
again until its input ends, and prints a list of the rounds.
"""

import json
import select
import sys

from cleanup_pipeline import postgres
from cleanup_pipeline.postgres import Database, Session
from cleanup_pipeline.rules import RULES
from cleanup_pipeline.sweep.pace import DEFAULT, FULL_SPEED
from cleanup_pipeline.sweep.sweep import Sweep
from cleanup_pipeline.sweep.work import Options
from cleanup_pipeline_tests.sweep.steps import LARGE_SHARED, NOW, SHARED, TINY, finish

NAME = "the client"
PACES = {pace.name: pace for pace in (DEFAULT, FULL_SPEED, TINY, SHARED, LARGE_SHARED)}


def run(url: str, pace: str) -> dict[str, dict[str, object]]:
    with Session(Database.parse(url), NAME) as session:
        results = [finish(Sweep(rule, session, Options(NOW, PACES[pace]))) for rule in RULES]
    return {result.rule: result.as_json() for result in results}


def main() -> None:
    postgres._SILENCE_S = 2.0  # a test's server is silent for good at once
    url, pace, *forever = sys.argv[1:]
    rounds = [run(url, pace)]
    while forever and not select.select([sys.stdin], [], [], 0)[0]:
        rounds.append(run(url, pace))
    print(json.dumps(rounds if forever else rounds[0]), flush=True)  # noqa: T201 -- it is a program


if __name__ == "__main__":
    main()
