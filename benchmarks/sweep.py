"""How long a sweep takes, beside the one big statement that does the same: ratios within one run.

    python benchmarks/sweep.py [--rows 1000000] [--rounds 3]

Starts an embedded PostgreSQL, fills it once, and for each rule and round copies the planted database and cleans it by
either way, in turn. Nothing else should run on the machine. Half of the sessions and declines are due, a fifth of the
fingerprints are orphaned, and no foreign key guards them.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

import psycopg
from psycopg import Connection, sql

from cleanup_pipeline.demo.data import plant
from cleanup_pipeline.demo.schema import create_tables
from cleanup_pipeline.demo.server import embedded_server
from cleanup_pipeline.postgres import Database, Session
from cleanup_pipeline.rules import EXPIRED_SESSIONS, OLD_DECLINES, ORPHANED_FINGERPRINTS, Rule
from cleanup_pipeline.sweep.pace import DEFAULT, FULL_SPEED, Pace
from cleanup_pipeline.sweep.result import Result
from cleanup_pipeline.sweep.sweep import Options, Sweep

ONE_STATEMENT = {
    EXPIRED_SESSIONS.name: "update after_hours_sessions set ended_at = expires_at"
    " where ended_at is null and expires_at < %s",
    OLD_DECLINES.name: "delete from after_hours_declines where created_at < %s - interval '7 days'",
    ORPHANED_FINGERPRINTS.name: "delete from device_fingerprints f where session_id is not null"
    " and created_at < %s - interval '1 hour'"
    " and not exists (select from after_hours_sessions s where s.id = f.session_id)",
}
App = Connection[tuple[Any, ...]]
T = TypeVar("T")


def main() -> None:
    """Measure, and print one line a rule and way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--default-pace", action="store_true", help="measure the default pace as well")
    given = parser.parse_args()
    paces = [FULL_SPEED, *([DEFAULT] if given.default_pace else [])]
    with embedded_server() as server:
        # A template is copied anew for each measurement: both ways then meet the same pages.
        template = server.create_database("template")
        with psycopg.connect(template) as connection:
            create_tables(connection)
            plant(connection, given.rows)
        as_of = datetime.now(UTC)
        with psycopg.connect(template, autocommit=True) as connection:
            connection.execute("vacuum analyze")
        with psycopg.connect(server.url(), autocommit=True) as admin:
            print(
                f"PostgreSQL {admin.info.server_version // 10000}, {given.rows:,} rows a table, {given.rounds} rounds"
            )
            for rule in (EXPIRED_SESSIONS, OLD_DECLINES, ORPHANED_FINGERPRINTS):
                measure(admin, server.url("work"), rule, as_of, given.rounds, paces)


def measure(admin: App, url: str, rule: Rule, as_of: datetime, rounds: int, paces: list[Pace]) -> None:
    """Measure one rule: the statement and each pace in turn."""
    single: list[float] = []
    swept: dict[str, list[Result]] = {pace.name: [] for pace in paces}
    for _ in range(rounds):
        single.append(on_a_copy(admin, partial(one_statement, url, rule, as_of)))
        for pace in paces:
            swept[pace.name].append(on_a_copy(admin, partial(sweep, url, rule, as_of, pace)))
    base = statistics.median(single)
    print(f"{rule.name}: one statement {base:.2f} s ({min(single):.2f} to {max(single):.2f})")
    for name, results in swept.items():
        took = statistics.median(result.duration_s or 0.0 for result in results)
        longest = max(result.longest_batch_ms or 0.0 for result in results)
        print(
            f"{rule.name}: {name} {took / base:.2f} of it, longest writing transaction {longest:.0f} ms, "
            f"{results[-1].batches:,} windows, {results[-1].affected:,} rows"
        )


def on_a_copy(admin: App, work: Callable[[], T]) -> T:
    """Do `work` on a fresh copy of the template."""
    admin.execute("drop database if exists work with (force)")
    admin.execute(sql.SQL("create database work template template strategy file_copy"))
    admin.execute("checkpoint")
    return work()


def one_statement(url: str, rule: Rule, as_of: datetime) -> float:
    """Seconds that the one big statement takes."""
    with psycopg.connect(url, autocommit=True) as connection:
        began = time.monotonic()
        connection.execute(ONE_STATEMENT[rule.name].encode(), [as_of])
        return time.monotonic() - began


def sweep(url: str, rule: Rule, as_of: datetime, pace: Pace) -> Result:
    """What the sweep says of itself."""
    with Session(Database.parse(url)) as session:
        swept = Sweep(rule, session, Options(as_of, pace))
        for _ in swept:
            pass
    return swept.result


if __name__ == "__main__":
    main()
