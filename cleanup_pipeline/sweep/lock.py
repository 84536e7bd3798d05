"""One sweep of a rule at a time in a database: a lock that is tried, never waited for."""

import zlib

from psycopg import sql

from cleanup_pipeline.postgres import CleanupError, Limits, Session, Transaction

# Advisory locks are two 32-bit numbers; the first keeps ours apart from the app's.
_NAMESPACE = zlib.crc32(b"cleanup_pipeline") - 2**31
_LIMITS = Limits(statement_s=5.0)


class HeldError(CleanupError):
    """Another session holds the lock."""


def hold(session: Session, name: str) -> bool:
    """Try to take the lock `name` for as long as the session's connection lives; returns whether it is ours."""
    with session.transaction(_LIMITS) as transaction:
        (held,) = transaction.one(
            sql.SQL("select pg_catalog.pg_try_advisory_lock({}, {})").format(
                sql.Literal(_NAMESPACE), sql.Literal(_number(name))
            )
        )
    if held:
        session.held_locks.add(name)
    return bool(held)


def hold_in(transaction: Transaction, name: str) -> bool:
    """Try to take the lock `name` until the transaction ends; returns whether it is ours."""
    (held,) = transaction.one(
        sql.SQL("select pg_catalog.pg_try_advisory_xact_lock({}, {})").format(
            sql.Literal(_NAMESPACE), sql.Literal(_number(name))
        )
    )
    return bool(held)


def is_held(session: Session, name: str, *, by: int | None = None) -> bool:
    """Whether the lock `name` is held by the server's process `by`, or else by this connection.

    Raises `LostConnectionError`.
    """
    with session.transaction(_LIMITS) as transaction:
        (held,) = transaction.one(
            sql.SQL(
                """
                select exists (
                    select from pg_catalog.pg_locks
                    where locktype = 'advisory' and granted and pid = {pid}
                      and classid = {namespace}::bigint::oid and objid = {number}::bigint::oid
                      and database = (select oid from pg_catalog.pg_database where datname = current_database())
                )
                """
            ).format(
                pid=sql.Literal(by or session.backend_pid),
                namespace=sql.Literal(_NAMESPACE % 2**32),
                number=sql.Literal(_number(name) % 2**32),
            )
        )
    return bool(held)


def hold_again(session: Session) -> bool:
    """After a reconnect: take again all that the lost connection held; returns whether that is done."""
    return all(hold(session, name) for name in sorted(session.held_locks))


def release(session: Session, name: str) -> None:
    """Give the lock `name` back."""
    session.held_locks.discard(name)
    with session.transaction(_LIMITS) as transaction:
        transaction.one(
            sql.SQL("select pg_catalog.pg_advisory_unlock({}, {})").format(
                sql.Literal(_NAMESPACE), sql.Literal(_number(name))
            )
        )


def holder(session: Session, name: str) -> str:
    """Who holds the lock `name`, and since when, in words."""
    with session.transaction(_LIMITS) as transaction:
        rows = transaction.rows(
            sql.SQL(
                """
                select a.application_name, to_char(a.backend_start, 'YYYY-MM-DD HH24:MI:SS')
                from pg_catalog.pg_locks l
                join pg_catalog.pg_stat_activity a using (pid)
                where l.locktype = 'advisory' and l.granted
                  and l.classid = {namespace}::bigint::oid and l.objid = {number}::bigint::oid
                  and l.database = (select oid from pg_catalog.pg_database where datname = current_database())
                """
            ).format(namespace=sql.Literal(_NAMESPACE % 2**32), number=sql.Literal(_number(name) % 2**32))
        )
    if not rows:
        return "another session that has just ended"
    who, since = rows[0]
    return f"{who or 'another session'}, connected since {since or 'an unknown time'} UTC"


def _number(name: str) -> int:
    return zlib.crc32(name.encode()) - 2**31
