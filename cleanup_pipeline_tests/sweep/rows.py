"""Rows as the app writes them, one at a time: what a test does not name is ordinary, and not due."""

from datetime import datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID, uuid4

from psycopg import Connection, sql

from cleanup_pipeline_tests.sweep.steps import NOW

Moment = datetime | str | None  # a string as PostgreSQL writes it, such as -infinity

_numbers = count(1)


def user(app: Connection[Any], name: str | None = None) -> str:
    name = name or f"user {next(_numbers)}"
    _insert(app, "users", id=name, provider="phone", created_at=NOW - timedelta(days=90))
    return name


def session(
    app: Connection[Any],
    expires_at: Moment = NOW + timedelta(hours=4),
    ended_at: Moment = None,
    *,
    of: str | None = None,
    identity: UUID | None = None,
) -> UUID:
    identity = identity or uuid4()
    _insert(
        app,
        "after_hours_sessions",
        id=identity,
        user_id=of or user(app),
        expires_at=expires_at,
        ended_at=ended_at,
        latitude=52.520008,
        longitude=13.404954,
        fuzzed_latitude=52.52,
        fuzzed_longitude=13.4,
    )
    return identity


def decline(app: Connection[Any], created_at: Moment = NOW, *, during: UUID | None = None) -> UUID:
    identity = uuid4()
    _insert(
        app,
        "after_hours_declines",
        id=identity,
        session_id=during or session(app),
        user_id=user(app),
        declined_user_id=user(app),
        created_at=created_at,
    )
    return identity


def fingerprint(app: Connection[Any], names: UUID | None, created_at: Moment = NOW, **columns: Any) -> UUID:
    identity = uuid4()
    _insert(
        app,
        "device_fingerprints",
        id=identity,
        user_id=user(app),
        device_id="device",
        session_id=names,
        created_at=created_at,
        **columns,
    )
    return identity


def orphaned_fingerprint(app: Connection[Any], created_at: Moment = NOW - timedelta(days=1), **columns: Any) -> UUID:
    return fingerprint(app, uuid4(), created_at, **columns)


def profile(app: Connection[Any], of: str, created_at: Moment = NOW, updated_at: Moment = None) -> str:
    _insert(
        app,
        "after_hours_profiles",
        user_id=of,
        photo_url="https://photos.example.com/1.jpg",
        created_at=created_at,
        updated_at=updated_at or created_at,
    )
    return of


def preferences(app: Connection[Any], of: str, created_at: Moment = NOW, updated_at: Moment = None) -> str:
    _insert(
        app,
        "after_hours_preferences",
        user_id=of,
        seeking_gender="everyone",
        created_at=created_at,
        updated_at=updated_at or created_at,
    )
    return of


def match(app: Connection[Any], during: UUID) -> UUID:
    """A match that expired long ago, with a message: chat-service's, whatever their age."""
    identity = uuid4()
    long_ago = NOW - timedelta(days=400)
    _insert(
        app,
        "after_hours_matches",
        id=identity,
        session_id=during,
        user_id_1="one",
        user_id_2="another",
        expires_at=long_ago,
        created_at=long_ago,
    )
    _insert(app, "after_hours_messages", match_id=identity, sender_id="one", text="Hello", created_at=long_ago)
    return identity


def exists(app: Connection[Any], table: str, **key: Any) -> bool:
    ((column, value),) = key.items()
    query = sql.SQL("select exists (select from public.{} where {} = %s)").format(
        sql.Identifier(table), sql.Identifier(column)
    )
    return bool(app.execute(query, [value]).fetchall()[0][0])


def ended_at(app: Connection[Any], identity: UUID) -> str | None:
    """When a session was ended, as PostgreSQL writes it."""
    rows = app.execute("select ended_at::text from public.after_hours_sessions where id = %s", [identity]).fetchall()
    return None if rows[0][0] is None else str(rows[0][0])


def _insert(app: Connection[Any], table: str, **columns: Any) -> None:
    app.execute(
        sql.SQL("insert into {} ({}) values ({})").format(
            sql.Identifier("public", table),
            sql.SQL(", ").join(map(sql.Identifier, columns)),
            sql.SQL(", ").join(sql.Placeholder() * len(columns)),
        ),
        list(columns.values()),
    )
