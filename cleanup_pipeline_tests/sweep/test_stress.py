"""The app writes to the very rows that are swept, in every order: it is in no deadlock and never waits long."""

import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import psycopg
import pytest
from psycopg import Connection

from cleanup_pipeline.sweep.pace import DEFAULT, FULL_SPEED, Pace
from cleanup_pipeline_tests.oracle import expected, snapshot
from cleanup_pipeline_tests.sweep import client
from cleanup_pipeline_tests.sweep.steps import LARGE_SHARED, NOW, connected, sweep_all

App = Connection[Any]

ROWS = 600
ROWS_A_TRANSACTION = 8
ORDERS = ("ascending", "descending", "random")
LONGEST_WAIT_S = 0.5
SPACE = UUID(int=0)

# Both leave the row as due as it was, or make it due again.
OPEN_AGAIN = "update after_hours_sessions set ended_at = null, latitude = latitude + 1e-6 where id = %(id)s"
DECLINE_AGAIN = """
    insert into after_hours_declines (id, session_id, user_id, declined_user_id, created_at)
    values (%(id)s, %(id)s, %(user)s, 'somebody', '2026-01-01Z')
    on conflict (user_id, declined_user_id) do update set decline_count = after_hours_declines.decline_count + 1
"""
WRITES = (OPEN_AGAIN.encode(), DECLINE_AGAIN.encode())

each_pace = pytest.mark.parametrize("pace", [DEFAULT, FULL_SPEED, LARGE_SHARED], ids=lambda pace: str(pace.name))


class User(threading.Thread):
    """A client of the app's that changes several of its rows a transaction, in one order, until it is told to stop.

    Every user has rows of their own, so that only the sweep can be in their way.
    """

    def __init__(self, database: str, order: str, mine: Sequence[int], stop: threading.Event) -> None:
        super().__init__()
        self._database, self._order, self._mine, self._told_to_stop = database, order, mine, stop
        self.waits: list[float] = []
        self.deadlocks = 0
        self.raised: Exception | None = None

    def run(self) -> None:
        try:
            with connected(self._database) as app:
                while not self._told_to_stop.is_set():
                    self._work(app)
        except Exception as raised:
            self.raised = raised

    def _work(self, app: App) -> None:
        chosen = random.sample(self._mine, ROWS_A_TRANSACTION)
        if self._order != "random":
            chosen.sort(reverse=self._order == "descending")
        try:
            with app.transaction():
                for number in chosen:
                    began = time.monotonic()
                    values = {"id": uuid5(SPACE, str(number)), "user": f"user {number}"}
                    app.execute(random.choice(WRITES), values)  # noqa: S311 -- no secret
                    self.waits.append(time.monotonic() - began)
        except psycopg.errors.DeadlockDetected:
            self.deadlocks += 1


def plant_due(app: App) -> None:
    with app.cursor() as cursor:
        values = [{"id": uuid5(SPACE, str(number)), "user": f"user {number}"} for number in range(ROWS)]
        cursor.executemany(
            "insert into users (id, provider) values (%(user)s, 'phone')", [*values, {"user": "somebody"}]
        )
        cursor.executemany(
            "insert into after_hours_sessions"
            " (id, user_id, expires_at, latitude, longitude, fuzzed_latitude, fuzzed_longitude)"
            " values (%(id)s, %(user)s, '2026-01-01Z', 0, 0, 0, 0)",
            values,
        )
        cursor.executemany(DECLINE_AGAIN.encode(), values)


def stress(database: str, pace: Pace, seconds: float) -> tuple[list[User], list[Any]]:
    """Let the app work beside a run after the other; returns its users, and what became of the runs."""
    stop = threading.Event()
    users = [User(database, order, range(start, ROWS, 3), stop) for start, order in enumerate(ORDERS)]
    command = [sys.executable, "-m", client.__name__, database, pace.name, "forever"]
    runs = subprocess.Popen(
        command, cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        for user in users:
            user.start()
        stop.wait(seconds)
        stop.set()  # alone with the rows, the last round ends however busy the machine is
        out, _ = runs.communicate(timeout=60)
    finally:
        stop.set()
        runs.kill()
        for user in users:
            user.join()
    return users, json.loads(out)


def check(app: App, database: str, pace: Pace, seconds: float) -> list[User]:
    plant_due(app)
    users, runs = stress(database, pace, seconds)
    assert [user.raised for user in users] == [None] * 3
    assert [user.deadlocks for user in users] == [0] * 3
    assert {rule["status"] for run in runs for rule in run.values()} == {"success"}
    for rule in ("expired_sessions", "old_declines"):
        assert sum(run[rule]["affected"] for run in runs) > ROWS / 2, "the sweep and the app must have met"
    want = expected(app, NOW)
    sweep_all(database)
    assert snapshot(app) == want
    return users


# How long somebody waits on a machine that other tests use too says nothing: see the long form.
@each_pace
def test_the_app_is_in_no_deadlock_with_a_sweep(app: App, database: str, pace: Pace) -> None:
    check(app, database, pace, seconds=8)


@pytest.mark.long
@each_pace
def test_in_a_minute_of_work_on_the_same_rows_the_app_waits_half_a_second_at_most(
    app: App, database: str, pace: Pace
) -> None:
    users = check(app, database, pace, seconds=60)
    longest = max(max(user.waits) for user in users)
    assert longest < LONGEST_WAIT_S, f"{longest:.3f} s, of {sum(len(user.waits) for user in users):,} statements"
