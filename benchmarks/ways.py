"""The ways to clean that are compared: one big statement, a loop with LIMIT, and the sweep."""

import time
from dataclasses import dataclass
from datetime import datetime

import psycopg

from cleanup_pipeline.postgres import Database, Session
from cleanup_pipeline.rules import EXPIRED_SESSIONS, OLD_DECLINES, ORPHANED_FINGERPRINTS, RULES, Rule
from cleanup_pipeline.sweep.pace import FULL_SPEED, Pace
from cleanup_pipeline.sweep.result import Result
from cleanup_pipeline.sweep.sweep import Sweep
from cleanup_pipeline.sweep.window import Budget
from cleanup_pipeline.sweep.work import Options

# What is changed, and which rows: the big statement has the condition, the loop picks rows by it.
_STATEMENTS = {
    EXPIRED_SESSIONS.name: (
        "update after_hours_sessions t set ended_at = expires_at",
        "after_hours_sessions",
        "ended_at is null and expires_at < %(as_of)s",
    ),
    OLD_DECLINES.name: (
        "delete from after_hours_declines t",
        "after_hours_declines",
        "created_at < %(as_of)s - interval '7 days'",
    ),
    ORPHANED_FINGERPRINTS.name: (
        "delete from device_fingerprints t",
        "device_fingerprints",
        "session_id is not null and created_at < %(as_of)s - interval '1 hour'"
        " and not exists (select from after_hours_sessions s where s.id = t.session_id)",
    ),
}


@dataclass(frozen=True, slots=True)
class Taken:
    """What one way took: seconds, and bytes of WAL."""

    seconds: float
    wal: int = 0


def one_statement(url: str, rule: Rule, as_of: datetime) -> Taken:
    """One statement that returns no rows."""
    verb, _, due = _STATEMENTS[rule.name]
    with psycopg.connect(url, autocommit=True) as app:
        before, began = wal(app), time.monotonic()
        app.execute(f"{verb} where {due}".encode(), {"as_of": as_of})
        return Taken(time.monotonic() - began, wal(app) - before)


def limit_loop(url: str, rule: Rule, as_of: datetime, give_up_after_s: float) -> Taken | None:
    """1,000 rows at a time, each in a transaction of its own; None where that takes too long to wait for."""
    verb, table, due = _STATEMENTS[rule.name]
    query = f"{verb} where id in (select id from {table} t where {due} limit 1000)".encode()
    with psycopg.connect(url, autocommit=True) as app:
        began = time.monotonic()
        while app.execute(query, {"as_of": as_of}).rowcount:
            if time.monotonic() - began > give_up_after_s:
                return None
        return Taken(time.monotonic() - began)


def sweep(
    url: str,
    rule: Rule,
    as_of: datetime,
    pace: Pace = FULL_SPEED,
    *,
    deadline_s: float | None = None,
    max_share: float | None = None,
) -> tuple[Result, int]:
    """The sweep; its result, and the bytes of WAL."""
    budget = Budget(deadline=None if deadline_s is None else time.monotonic() + deadline_s)
    with psycopg.connect(url, autocommit=True) as app, Session(Database.parse(url)) as session:
        before = wal(app)
        swept = Sweep(rule, session, Options(as_of, pace, max_share=max_share, budget=budget))
        for _ in swept:
            pass
        written = wal(app) - before
    if swept.result.error:
        raise RuntimeError(swept.result.error)
    return swept.result, written


def sweep_all(url: str, as_of: datetime) -> dict[str, Result]:
    """All rules in one session, as a run does it."""
    with Session(Database.parse(url)) as session:
        sweeps = {rule.name: Sweep(rule, session, Options(as_of, FULL_SPEED)) for rule in RULES}
        for swept in sweeps.values():
            for _ in swept:
                pass
    return {name: swept.result for name, swept in sweeps.items()}


def seconds(result: Result) -> float:
    """What a sweep says that it took."""
    return result.duration_s or 0.0


def wal(app: psycopg.Connection[tuple[int]]) -> int:
    """Bytes of WAL that the server has written so far."""
    ((written,),) = app.execute("select (pg_current_wal_insert_lsn() - '0/0')::bigint").fetchall()
    return written
