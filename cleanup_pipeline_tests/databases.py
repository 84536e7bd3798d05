"""Databases for tests: a fresh one each, on one server."""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
from psycopg import sql

EMPTY = "template0"


def url_of(server_url: str, database: str) -> str:
    """The URL of another database on the same server."""
    parts = urlsplit(server_url)
    return f"{parts.scheme}://{parts.netloc}/{database}" + (f"?{parts.query}" if parts.query else "")


@contextmanager
def fresh_database(server_url: str, template: str = EMPTY) -> Iterator[str]:
    """Make a database as a copy of `template`, give its URL, and drop it afterwards, whoever is still connected."""
    name = f"cleanup_test_{uuid4().hex[:16]}"
    create = sql.SQL("create database {} template {}").format(sql.Identifier(name), sql.Identifier(template))
    with psycopg.connect(server_url, autocommit=True) as connection:
        if connection.info.server_version >= 150000:
            create += sql.SQL(" strategy file_copy")  # 20 ms instead of 55, where nothing waits for the disk
        connection.execute(create)
    try:
        yield url_of(server_url, name)
    finally:
        with psycopg.connect(server_url, autocommit=True) as connection:
            connection.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))


@contextmanager
def database_in_sql_ascii(server_url: str) -> Iterator[str]:
    """Make a database that knows no encoding, give its URL, and drop it afterwards."""
    name = f"cleanup_test_ascii_{uuid4().hex[:16]}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(
            sql.SQL("create database {} template template0 encoding 'SQL_ASCII' lc_collate 'C' lc_ctype 'C'").format(
                sql.Identifier(name)
            )
        )
        try:
            yield url_of(server_url, name)
        finally:
            connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def name_of(url: str) -> str:
    """The database's name in a URL, to make it a template of others."""
    return urlsplit(url).path.removeprefix("/")


def everything_in(url: str) -> str:
    """Every value of every table, as text; what is compressed, as Dagster's snapshots are, is unpacked."""
    with psycopg.connect(url) as connection:
        tables = connection.execute("select tablename from pg_tables where schemaname = 'public'").fetchall()
        return "\n".join(
            _as_text(value)
            for (table,) in tables
            for row in connection.execute(sql.SQL("select * from {}").format(sql.Identifier("public", table)))
            for value in row
        )


def _as_text(value: object) -> str:
    if not isinstance(value, bytes):
        return str(value)
    with suppress(zlib.error):
        value = zlib.decompress(value)
    return value.decode("utf-8", "replace")
