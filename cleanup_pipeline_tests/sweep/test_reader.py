"""How a table is read: in slices where somebody is to be spared, as a whole where nobody is."""

import threading

import psycopg
import pytest

from cleanup_pipeline.postgres import Limits, Transaction
from cleanup_pipeline.rules import OLD_DECLINES
from cleanup_pipeline.sweep.catalog import Leaf
from cleanup_pipeline.sweep.pace import DEFAULT, FULL_SPEED, LOOKING, Pace
from cleanup_pipeline.sweep.preflight import accept, inspect
from cleanup_pipeline.sweep.reader import Reader
from cleanup_pipeline.sweep.statements import Everything, Part
from cleanup_pipeline.sweep.work import statements_for
from cleanup_pipeline_tests.sweep import rows
from cleanup_pipeline_tests.sweep.steps import NOW, few_rows_a_page, options, session_on


@pytest.mark.parametrize(("pace", "as_a_whole"), [(DEFAULT, False), (LOOKING, False), (FULL_SPEED, True)])
def test_at_full_speed_alone_a_table_is_read_as_a_whole_and_by_more_than_one_process(
    app: psycopg.Connection, database: str, pace: Pace, as_a_whole: bool
) -> None:
    few_rows_a_page(app, "after_hours_declines")
    for _ in range(200):
        rows.decline(app, NOW)

    def look(transaction: Transaction, _: Leaf, part: Part) -> tuple[bool, str]:
        (workers,) = transaction.one(b"select current_setting('max_parallel_workers_per_gather')")
        return isinstance(part, Everything), workers

    with session_on(database) as session:
        statements = statements_for(accept(inspect(session, OLD_DECLINES)), options())
        reader = Reader(session, pace, threading.Event())
        seen = list(reader.slices(statements, statements.target.leaves[0], look))
    assert seen[-1][0] == 1.0
    assert {how for _, how in seen} == {(as_a_whole, "1" if as_a_whole else "0")}
    assert (len(seen) == 1) == as_a_whole


@pytest.mark.parametrize(
    ("far_s", "rest_s"),
    [(0.0, 4 * 0.035 + 0.025), (0.01, 4 * 0.005 + 0.005), (0.02, 0.0)],
    ids=["near", "far", "farther than was believed"],
)
def test_a_far_server_rests_while_a_statement_is_on_its_way(database: str, far_s: float, rest_s: float) -> None:
    rested = []

    class Watched(Reader):
        def pause(self, seconds: float) -> None:
            rested.append(seconds)

    with session_on(database) as session:
        session.far_s = far_s
        Watched(session, DEFAULT, threading.Event()).rest(0.035, 0.025, asked=3)
    assert rested == [pytest.approx(rest_s)]


def test_a_near_server_that_was_busy_when_we_connected_is_near_by_its_first_timely_answer(database: str) -> None:
    with session_on(database) as session:
        session.connect()
        session.far_s = 3600.0
        for _ in range(100):
            with session.transaction(Limits(statement_s=1.0)):
                pass
        assert session.far_s < 0.1
