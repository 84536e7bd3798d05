"""Two operators, or two nodes, who start the same run at the same time."""

import pytest
from psycopg import Connection

from cleanup_pipeline.demo.data import plant
from cleanup_pipeline_tests.cli.conftest import ended, start
from cleanup_pipeline_tests.oracle import expected, snapshot
from cleanup_pipeline_tests.sweep.steps import NOW


def start_two_at_once(app: Connection, database: str) -> None:
    planted = plant(app, 2000, NOW)
    want = expected(app, NOW)
    variables = {"CLEANUP_DATABASE_URL": database}
    both = [start(["run", "--json", "--as-of", NOW.isoformat()], variables) for _ in range(2)]
    one, other = (ended(process, 150) for process in both)
    for rule, due in planted.due.items():
        outcomes = [done.rules[rule] for done in (one, other)]
        assert sum(outcome["affected"] for outcome in outcomes) == due
        skipped = [outcome for outcome in outcomes if outcome["status"] == "skipped"]
        assert [outcome["status"] for outcome in outcomes].count("success") == 2 - len(skipped) >= 1
        assert all(f"Another sweep of {rule} is on" in outcome["error"] for outcome in skipped)
    for done in (one, other):
        assert done.code == (4 if done.json["status"] == "skipped" else 0), done.err
    assert snapshot(app) == want


def test_of_two_runs_at_once_one_does_each_rule_and_the_other_skips_it_or_finds_it_done(
    app: Connection, database: str
) -> None:
    start_two_at_once(app, database)


@pytest.mark.long
@pytest.mark.parametrize("repetition", range(20))
@pytest.mark.usefixtures("repetition")
def test_of_two_runs_at_once_each_rule_is_done_once_every_time(app: Connection, database: str) -> None:
    start_two_at_once(app, database)
