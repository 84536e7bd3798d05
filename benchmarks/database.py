"""Databases to measure on: planted once, and copied anew for each measurement, so that all ways meet the same pages."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import psycopg
from psycopg import Connection, sql

from cleanup_pipeline.demo.data import ROWS, plant, without_indexes
from cleanup_pipeline.demo.schema import add_foreign_keys, create_tables
from cleanup_pipeline.demo.server import EmbeddedServer, embedded_server

App = Connection[Any]
T = TypeVar("T")

# Of what is planted a fifth is orphaned; to judge near the fuse (25 %), a little more.
_ORPHAN_24_PERCENT = """
    update device_fingerprints set session_id = md5('lost ' || id)::uuid
    where id in (select md5('fingerprint ' || i)::uuid from generate_series(3, %s, 25) as i)
"""
_NO_ORPHANS = (
    "update device_fingerprints set session_id = null"
    " where not exists (select from after_hours_sessions s where s.id = session_id)",
    "delete from after_hours_profiles where not exists (select from users u where u.id = user_id)",
    "delete from after_hours_preferences where not exists (select from users u where u.id = user_id)",
)
_NEVER_DUE = "update after_hours_sessions set ended_at = expires_at where ended_at is null and expires_at < now()"
_DUE = """
    update after_hours_sessions set ended_at = null
    where id in (select md5('session ' || i)::uuid from generate_series(1, %s, 2) as i)
"""
_NO_DECLINES = "delete from after_hours_declines where created_at < now() - interval '7 days'"


# Only what the client's memory is measured with: no index, so that millions of rows are made and cleaned soon.
_ONLY_TABLES = """
    set session_replication_role = replica;
    alter table after_hours_declines drop constraint after_hours_declines_pkey;
    alter table after_hours_declines drop constraint after_hours_declines_user_id_declined_user_id_key;
    drop index after_hours_declines_session, after_hours_declines_user, after_hours_declines_pair_count;
    alter table device_fingerprints drop constraint device_fingerprints_pkey;
    drop index device_fingerprints_user, device_fingerprints_device
"""
_ONE_SESSION = """
    insert into after_hours_sessions
        (user_id, expires_at, latitude, longitude, fuzzed_latitude, fuzzed_longitude)
    values ('somebody', now(), 1, 1, 1, 1)
"""
_ALL_DECLINES = """
    insert into after_hours_declines (session_id, user_id, declined_user_id, created_at)
    select gen_random_uuid(), 'user ' || i, 'somebody', now() - interval '8 days' from generate_series(1, %s) as i
"""
_ALL_FINGERPRINTS = """
    insert into device_fingerprints (user_id, session_id, device_id, created_at)
    select 'user ' || i, gen_random_uuid(), 'device', now() - interval '8 days' from generate_series(1, %s) as i
"""


@dataclass(frozen=True)
class Bench:
    """A server, and the instant that everything was planted around."""

    server: EmbeddedServer
    admin: App
    as_of: datetime

    def planted(self, name: str, rows: int, *statements: tuple[str, list[object]]) -> str:
        """Make a database to copy from, of `rows` rows a table, changed by `statements`; returns its name."""
        with psycopg.connect(self.server.create_database(name)) as app:
            create_tables(app)
            plant(app, rows, self.as_of)
            for statement, values in statements:
                app.execute(statement.encode(), values)
        with psycopg.connect(self.server.url(name), autocommit=True) as app:
            app.execute("vacuum analyze")
        return name

    def on_a_copy(self, template: str, work: Callable[[str], T]) -> T:
        """Do `work` with the URL of a fresh copy of `template`."""
        self.drop("work")
        self.admin.execute(
            sql.SQL("create database work template {} strategy file_copy").format(sql.Identifier(template))
        )
        self.admin.execute("checkpoint")
        return work(self.server.url("work"))

    def drop(self, name: str) -> None:
        """Drop a database that nothing needs any more."""
        self.admin.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))

    def busy(self, rows: int) -> str:
        """Half of sessions and declines are due, 24 % of the fingerprints orphaned, and no foreign key guards them."""
        return self.planted("busy", rows, (_ORPHAN_24_PERCENT, [rows]))

    def thousand(self, name: str, rows: int) -> str:
        """1,000 of `rows` sessions are due; there is nothing in other tables but users."""
        with psycopg.connect(self.server.create_database(name)) as app:
            create_tables(app)
            with without_indexes(app):
                for table in ("users", "after_hours_sessions"):
                    app.execute(ROWS[table].encode(), {"n": rows, "now": self.as_of})
                app.execute(_NEVER_DUE.encode())
                app.execute(_DUE.encode(), [2_000])
        with psycopg.connect(self.server.url(name), autocommit=True) as app:
            app.execute("vacuum (full, analyze) after_hours_sessions")
            app.execute("vacuum after_hours_sessions")  # the visibility map, which a full one leaves empty
        return name

    def all_due(self, name: str, rows: int) -> str:
        """All declines are due and all fingerprints orphaned, `rows` of each; there are no indexes."""
        with psycopg.connect(self.server.create_database(name), autocommit=True) as app:
            create_tables(app)
            for statement in (_ONLY_TABLES, _ONE_SESSION, "analyze after_hours_sessions"):
                app.execute(statement.encode())
            for statement in (_ALL_DECLINES, _ALL_FINGERPRINTS):
                app.execute(statement.encode(), [rows])
            app.execute("vacuum analyze")
        return name

    def clean(self, rows: int) -> str:
        """Nothing is due, and foreign keys guard what they guard in production."""
        name = self.planted("clean", rows, (_NEVER_DUE, []), (_NO_DECLINES, []), *((s, []) for s in _NO_ORPHANS))
        with psycopg.connect(self.server.url(name)) as app:
            add_foreign_keys(app)
        return name


@contextmanager
def bench() -> Iterator[Bench]:
    """An embedded server of its own. Autovacuum is off: it would fall on one way or the other by chance."""
    with embedded_server() as server, psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute("alter system set autovacuum = off")
        admin.execute("select pg_reload_conf()")
        yield Bench(server, admin, datetime.now(UTC))
