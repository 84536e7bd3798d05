"""The second walk is left out only where nobody else has written anything on the server since the first began."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest
from psycopg import Connection

from cleanup_pipeline.demo.data import plant
from cleanup_pipeline.demo.schema import create_tables
from cleanup_pipeline.demo.server import embedded_server
from cleanup_pipeline.rules import OLD_DECLINES
from cleanup_pipeline.sweep.sweep import Sweep
from cleanup_pipeline_tests.sweep.steps import LARGE, NOW, options, session_on

App = Connection[Any]
Step = Callable[[], object]

LOOK = "looking at what remains"
TRIES = 20  # an autovacuum may write at any moment


def stages(database: str, *, before: Step = lambda: None, during: Step = lambda: None) -> list[str]:
    """The stages of a sweep of declines; `during` is done behind its first window."""
    before()
    with session_on(database) as session:
        seen: list[str] = []
        for progress in Sweep(OLD_DECLINES, session, options(pace=LARGE)):
            if not seen:
                during()
            seen.append(progress.stage)
        return seen


def test_nothing_is_looked_for_where_nobody_can_have_moved_a_row() -> None:
    with embedded_server(durable=False) as alone, psycopg.connect(alone.url(), autocommit=True) as app:
        create_tables(app)
        plant(app, 1_000, NOW)
        again = "update after_hours_declines set created_at = created_at - interval '8 days'"
        assert any(LOOK not in stages(alone.url(), before=lambda: app.execute(again.encode())) for _ in range(TRIES))


def commits(database: str, stack: ExitStack) -> tuple[Step, Step]:
    app = stack.enter_context(psycopg.connect(database, autocommit=True))
    return lambda: None, lambda: app.execute("insert into users (id, provider) values ('new', 'apple')")


def rolls_back(database: str, stack: ExitStack) -> tuple[Step, Step]:
    app = stack.enter_context(psycopg.connect(database))

    def write() -> None:
        app.execute("insert into users (id, provider) values ('new', 'apple')")
        app.rollback()

    return lambda: None, write


def has_begun_before(database: str, stack: ExitStack) -> tuple[Step, Step]:
    app = stack.enter_context(psycopg.connect(database))
    return lambda: app.execute("insert into users (id, provider) values ('new', 'apple')"), app.commit


@pytest.mark.parametrize("writer", [commits, rolls_back, has_begun_before])
def test_what_remains_is_looked_for_after_anybody_elses_transaction(
    app: App, database: str, writer: Callable[[str, ExitStack], tuple[Step, Step]]
) -> None:
    plant(app, 1_000, NOW)
    with ExitStack() as stack:
        before, during = writer(database, stack)
        assert LOOK in stages(database, before=before, during=during)


def test_what_remains_is_looked_for_where_a_trigger_may_bring_rows_back(app: App, database: str) -> None:
    plant(app, 1_000, NOW)
    app.execute("create function keeps() returns trigger language plpgsql as 'begin return old; end'")
    app.execute("create trigger keeps after delete on after_hours_declines for each row execute function keeps()")
    assert LOOK in stages(database)
