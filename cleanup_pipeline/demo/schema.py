"""After Hours' tables in an empty database."""

from importlib.resources import files
from typing import Any

from psycopg import Connection

TABLES: tuple[str, ...] = (
    "users",
    "after_hours_profiles",
    "after_hours_preferences",
    "after_hours_sessions",
    "after_hours_declines",
    "after_hours_matches",
    "after_hours_messages",
    "device_fingerprints",
)
"""Every table of the schema, all in `public`; a parent stands before its children."""


def create_tables(connection: Connection[Any]) -> None:
    """Make all tables, without the foreign keys that would keep orphans from existing."""
    _apply(connection, "schema.sql")


def add_foreign_keys(connection: Connection[Any]) -> None:
    """Add the foreign keys that `create_tables` leaves out, as in production; fails where there are orphans."""
    _apply(connection, "foreign_keys.sql")


def _apply(connection: Connection[Any], file: str) -> None:
    with connection.transaction():
        connection.execute("set local search_path = public")
        connection.execute(files(__package__).joinpath(file).read_bytes())
