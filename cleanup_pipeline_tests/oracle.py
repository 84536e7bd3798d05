"""What the promises say, as plain SQL: nothing in here is shared with the package that keeps them.

`expected` only reads, so that a test's heap, its dead rows and its row addresses stay as the test made them. It knows
neither fuse nor refusal nor guard: it tells what must be there where every rule was carried out.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import Connection, sql

# Rows as JSON: exact (to the microsecond, infinity too), readable, and whole, whatever columns a test adds.
AS_THEY_ARE = {
    table: f"select to_jsonb(t) from public.{table} t"
    for table in (
        "users",
        "after_hours_profiles",
        "after_hours_preferences",
        "after_hours_sessions",
        "after_hours_declines",
        "after_hours_matches",
        "after_hours_messages",
        "device_fingerprints",
    )
}

# "is not true", since a row whose age is null is kept.
AS_PROMISED = AS_THEY_ARE | {
    "after_hours_sessions": """
        select to_jsonb(s) || case
            when s.ended_at is null and s.expires_at < {as_of} then jsonb_build_object('ended_at', s.expires_at)
            else '{{}}'
        end
        from public.after_hours_sessions s""",
    "after_hours_declines": """
        select to_jsonb(d) from public.after_hours_declines d
        where (d.created_at < {as_of} - {retention_days} * interval '24 hours') is not true""",
    # Some tests give it an updated_at; taken from the row's JSON, it is null where there is none.
    "device_fingerprints": """
        select to_jsonb(f) from public.device_fingerprints f
        where f.session_id is null
        or exists (select from public.after_hours_sessions s where s.id = f.session_id)
        or (
            greatest(f.created_at, (to_jsonb(f) ->> 'updated_at')::timestamptz) < {as_of} - interval '1 hour'
        ) is not true""",
    "after_hours_profiles": """
        select to_jsonb(p) from public.after_hours_profiles p
        where exists (select from public.users u where u.id = p.user_id)
        or (greatest(p.created_at, p.updated_at) < {as_of} - interval '1 hour') is not true""",
    "after_hours_preferences": """
        select to_jsonb(p) from public.after_hours_preferences p
        where exists (select from public.users u where u.id = p.user_id)
        or (greatest(p.created_at, p.updated_at) < {as_of} - interval '1 hour') is not true""",
}

SHOWN = 5


@dataclass(frozen=True)
class Tables:
    """The rows of all eight tables, as text and in no order; equal if every row of every table is."""

    rows: Mapping[str, Counter[str]]

    def counts(self) -> dict[str, int]:
        return {table: rows.total() for table, rows in self.rows.items()}

    def only_here(self, other: "Tables") -> dict[str, int]:
        """How many rows of each table are not, or not like this, in `other`."""
        return {table: (rows - other.rows[table]).total() for table, rows in self.rows.items()}

    def differences(self, other: "Tables") -> Iterator[str]:
        """Lines for a person: first how much differs, then some rows that are only on the left (-) or right (+)."""
        sides = (("-", self, other), ("+", other, self))
        surplus = {(table, sign): one.rows[table] - two.rows[table] for table in self.rows for sign, one, two in sides}
        for (table, sign), rows in surplus.items():
            if rows:
                yield f"{sign} {table}: {rows.total()} rows only on the {'left' if sign == '-' else 'right'}"
        for (table, sign), rows in surplus.items():
            yield from (f"{sign} {table} {row}" for row in sorted(rows.elements())[:SHOWN])


def snapshot(connection: Connection[Any]) -> Tables:
    """What the tables look like now."""
    return _read(connection, AS_THEY_ARE)


def whole_database(connection: Connection[Any]) -> Tables:
    """What every table of the database looks like now, by name; of other schemas than public with the schema's."""
    names = connection.execute(
        "select format(case nspname when 'public' then '%2$s' else '%1$I.%2$I' end, nspname, relname),"
        " format('select to_jsonb(t) from only %I.%I t', nspname, relname)"
        " from pg_class c join pg_namespace n on n.oid = c.relnamespace"
        " where relkind = 'r' and nspname !~ '^(pg_|information_schema$)'"
    ).fetchall()
    return _read(connection, {name: query.replace("{", "{{").replace("}", "}}") for name, query in names})


def expected(
    connection: Connection[Any],
    as_of: datetime,
    retention_days: int = 7,
    tables: Sequence[str] = tuple(AS_PROMISED),
) -> Tables:
    """What the tables must look like after a run of every rule as of `as_of`, if nobody else writes meanwhile."""
    queries = {table: AS_PROMISED[table] for table in tables}
    return _read(connection, queries, as_of=sql.Literal(as_of), retention_days=sql.Literal(retention_days))


def _read(connection: Connection[Any], queries: Mapping[str, str], **values: sql.Literal) -> Tables:
    with connection.transaction():
        connection.execute("set local timezone = 'UTC'")
        return Tables({table: Counter(_texts(connection, query, values)) for table, query in queries.items()})


def _texts(connection: Connection[Any], query: str, values: Mapping[str, sql.Literal]) -> Iterator[str]:
    rows = connection.execute(sql.SQL("select row::text from ({}) rows (row)").format(sql.SQL(query).format(**values)))
    return (text for (text,) in rows)
