"""Connecting to PostgreSQL: pinned settings, bounded waits, and errors in our words.

Databases and roles carry defaults (`alter role … set …`) that would change what a statement means. Every transaction of
ours therefore pins what its correctness rests on. Nothing here, and nothing that is raised from here, repeats a
password or a row: what a server says of a failure is told by its code and by the names of its objects alone.
"""

import math
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import psycopg
from psycopg import errors, sql
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict

DATABASE_URL_VARIABLE = "CLEANUP_DATABASE_URL"
APPLICATION_NAME = "cleanup_pipeline"

CONNECT_TIMEOUT_S = 10
_LEAST_CONNECT_TIMEOUT_S = 2  # libpq's own
# A client that froze or vanished must not leave its locks behind for the hours that servers allow by default.
IDLE_IN_TRANSACTION_TIMEOUT_S = 5.0
_IDLE_SESSION_TIMEOUT = "8s"
# What a server in the same network takes to answer, at most: it is no more than what asking costs ourselves.
_NEAR_S = 0.0005
_RECONNECT_PAUSES_S = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0, 8.0, 8.0)
_KEEPALIVES = {"keepalives": 1, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
_TCP_USER_TIMEOUT_MS = 20_000
# A server, or a pooler before it, may be frozen while its kernel still acknowledges what it gets: TCP never notices. By
# so long its silence may outlast the timeout that would have ended the statement.
_SILENCE_S = 20.0

Row = tuple[Any, ...]
Query = sql.SQL | sql.Composed | bytes  # bytes: composed already
Parameters = Sequence[object]
T = TypeVar("T")


class CleanupError(Exception):
    """Something went wrong; the message names the object, the cause and the next step, and holds no data."""


class ConfigurationError(CleanupError):
    """What was configured can't be meant: nothing was connected to."""


class UnreachableError(CleanupError):
    """The database can't be reached or does not let us in."""


class LostConnectionError(CleanupError):
    """The connection broke while a transaction was under way, so none of its changes were committed."""


class CommitInDoubtError(LostConnectionError):
    """The connection broke during the commit; `xid` tells which transaction to ask for (`settled`)."""

    def __init__(self, message: str, xid: int) -> None:
        super().__init__(message)
        self.xid = xid


class _SilentError(psycopg.OperationalError):
    """The server has not said a word for too long."""


class _Connection(psycopg.Connection[Row]):
    """A connection that is given up where the server stays silent for `patience_s` seconds."""

    patience_s = CONNECT_TIMEOUT_S + _SILENCE_S

    def wait(self, gen: PQGen[T], *args: Any, **options: Any) -> T:
        """Wait as psycopg does, no longer. Raises `_SilentError`; the connection is then closed."""
        return super().wait(self._while_it_speaks(gen), *args, **options)

    def _while_it_speaks(self, gen: PQGen[T]) -> PQGen[T]:
        heard = time.monotonic()
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if ready:
                    heard = time.monotonic()
                elif time.monotonic() > heard + self.patience_s:
                    self.pgconn.finish()
                    raise _SilentError
                wanted = gen.send(ready)
        except StopIteration as done:
            result: T = done.value
            return result


@dataclass(frozen=True)
class Database:
    """A parsed libpq URL. Its text and `repr` name host, port and database, never the password."""

    parameters: dict[str, Any] = field(repr=False)
    label: str

    @classmethod
    def parse(cls, url: str | None, variable: str = DATABASE_URL_VARIABLE) -> "Database":
        """Parse a libpq URL; `variable` is where it came from, for the message.

        Raises `ConfigurationError` where it is missing or malformed. The message never quotes it: an unescaped
        character in a password may have moved part of that password anywhere.
        """
        if not url or not url.strip():
            raise ConfigurationError(
                f"{variable} is not set: give it the database's URL (postgresql://user@host/database)."
            )
        malformed = ConfigurationError(
            f"{variable} is not a libpq URL (postgresql://user:password@host:port/database): "
            "check it, and percent-encode special characters in the password."
        )
        try:
            parameters = dict(conninfo_to_dict(url))
        except (psycopg.Error, UnicodeError):  # a byte, also a percent-encoded one, that is no UTF-8
            raise malformed from None
        if str(parameters.get("replication") or "false").lower() not in ("false", "off", "no", "0"):
            raise ConfigurationError(f"{variable} has the parameter replication, of no use here: take it out.")
        host, port = str(parameters.get("host") or ""), str(parameters.get("port") or "")
        name = str(parameters.get("dbname") or "")
        if not re.fullmatch(r"[\d,]*", port) or "@" in host[1:] or "@" in name or "://" in name or _divided_twice(url):
            raise malformed
        where = host or str(parameters.get("hostaddr") or "localhost")
        label = f"{where}:{port or 5432}/{name or parameters.get('user') or ''}"
        return cls(parameters, label)

    def __str__(self) -> str:
        return self.label

    def open(self, application_name: str = APPLICATION_NAME) -> _Connection:
        """Open an autocommit connection, within `CONNECT_TIMEOUT_S` for all of the URL's hosts (2 s each at the least).

        Raises `UnreachableError`.
        """
        parameters = {
            **_KEEPALIVES,
            "tcp_user_timeout": _TCP_USER_TIMEOUT_MS,
            **self.parameters,
            "connect_timeout": self._connect_timeout,
            "application_name": application_name,
            "client_encoding": "utf8",
        }
        try:
            connection = _Connection.connect(**parameters, autocommit=True)
        except (psycopg.Error, UnicodeError, ValueError) as error:
            raise UnreachableError(self._why_unreachable(str(error))) from None
        # A pooler may hand the next transaction to a server that does not know our prepared statements.
        connection.prepare_threshold = None
        return connection

    @property
    def _connect_timeout(self) -> int:
        """In seconds, for each host: the URL's, if that is shorter."""
        hosts = 1 + max(str(self.parameters.get(name) or "").count(",") for name in ("host", "hostaddr"))
        most = max(_LEAST_CONNECT_TIMEOUT_S, CONNECT_TIMEOUT_S // hosts)
        try:
            timeout = int(self.parameters.get("connect_timeout") or most)
        except ValueError:
            return most
        return timeout if 0 < timeout <= most else most

    def _why_unreachable(self, said: str) -> str:
        for pattern, reason in _CONNECTION_FAILURES:
            if found := re.search(pattern, said, re.IGNORECASE):
                return f"The database {self.label} {reason.format(*found.groups(''))}"
        return f"The database {self.label} can't be reached: check the URL and that the server runs."


def _divided_twice(url: str) -> bool:
    """Whether an `@` stands behind the one that ends user and password; a socket's name may begin with one."""
    return "://" in url and len(re.findall("(?<!host=)@", url)) > 1


# Placeholders are filled with the pattern's groups: words of libpq's own, never a value.
_CONNECTION_FAILURES = (
    (
        r'bad: invalid "?(\w+)"? value: |invalid integer value ".*" for connection option "(\w+)"',
        "can't be connected to: the URL's {0}{1} is not one of its values; mend it.",
    ),
    (
        r"server is (?:not )?in hot standby mode|session is (?:not )?read-only",
        "is there, but no such server as the URL's target_session_attrs asks for: check it, and the host.",
    ),
    (
        r"unrecognized configuration parameter|invalid value for parameter|permission denied to set"
        r"|cannot set parameter|invalid command-line argument",
        "refused a setting that the URL's options ask for: mend it or take it out.",
    ),
    (
        r"channel binding required|authentication method requirement",
        "does not log in as the URL's channel_binding or require_auth asks for: check these parameters.",
    ),
    (
        r"invalid response to SSL negotiation|expected authentication request",
        "can't be reached: what listens there does not speak PostgreSQL's protocol; check host and port.",
    ),
    (
        r"password authentication failed|no password supplied|SCRAM|authentication failed",
        "refused the login: the user or password is wrong; check the URL.",
    ),
    (
        r"no pg_hba\.conf entry|pg_hba\.conf rejects",
        "refused the login: pg_hba.conf does not admit this user from this host; ask its administrator.",
    ),
    (r"role .* does not exist", "refused the login: the role does not exist; check the user in the URL."),
    (
        r"role .* is not permitted to log in",
        "refused the login: the role may not log in; check the user in the URL.",
    ),
    (r"database .* does not exist", "does not exist on that server; check the name in the URL."),
    (
        r"not currently accepting connections",
        "accepts no connections (datallowconn is off): allow them, or check the name in the URL.",
    ),
    (r"permission denied for database", "refused the login: the role has no CONNECT privilege on the database."),
    (
        r"too many connections for (role|database)",
        "refused the login: the connection limit of the role or database is used up; raise it or end a connection.",
    ),
    (
        r"too many clients|remaining connection slots",
        "refused the login: all of the server's connections (max_connections) are used up; end some and try again.",
    ),
    (
        r"starting up|shutting down|in recovery mode|not yet accepting",
        "is starting up or shutting down; try again in a moment.",
    ),
    (
        r"certificate|SSL|TLS",
        "can't be reached: TLS was refused or the certificate not trusted; check sslmode and sslrootcert in the URL.",
    ),
    (
        r"closed the connection unexpectedly",
        "can't be reached: what listens there closed the connection; check host and port, and the server's log.",
    ),
    (
        r"translate host name|resolve|Name or service not known|getaddrinfo|No address associated",
        "can't be reached: its host name is unknown; check the URL.",
    ),
    (
        r"timeout expired|timed out",
        f"can't be reached: no answer within {CONNECT_TIMEOUT_S} seconds; check host, port and firewall.",
    ),
    (
        r"refused|No such file or directory|unreachable|No route",
        "can't be reached: nothing listens there; check host and port and that the server runs.",
    ),
    (r"connection is bad", "can't be connected to: the URL's parameters don't fit together; check them."),
    (r"FATAL:", "is there and refused the connection; its log says why."),
)


@dataclass(frozen=True, slots=True)
class Limits:
    """How long one statement may take and wait for a lock, in seconds."""

    statement_s: float
    lock_s: float = 0.1


class Session:
    """One connection to the database to clean, at most, for as long as a run takes; a `second` is a session of its own.

    It may come back as another connection after a loss (`reconnect`): what lived in it, temporary tables and session
    locks, is then gone. `generation` counts the connections that there were, `written` the transactions that were
    committed and had changed something; `backend_pid` is the server's process behind the connection. `far_s` is for how
    many seconds a statement of ours is on its way to a server that is far, and nobody works; 0 for a near one.
    """

    def __init__(self, database: Database, application_name: str = APPLICATION_NAME) -> None:
        self.database = database
        self.application_name = application_name
        self.backend_pid = 0
        self.generation = 0
        self.written = 0
        self.held_locks: set[str] = set()
        self.pooled = False
        self.server_version = 0
        self.deadlock_timeout_s = 1.0
        self.far_s = 0.0
        self._search_path = ""
        self._waits = True
        self._begins: dict[tuple[Limits, bool, bool], bytes] = {}
        self._connection: _Connection | None = None
        self._second: Session | None = None

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def connection(self) -> _Connection:
        """The open connection; opened where there is none yet. Raises `UnreachableError`."""
        return self._connection or self._open()

    def connect(self) -> None:
        """Connect, unless that is done. Raises `UnreachableError`."""
        _ = self.connection

    @property
    def alive(self) -> bool:
        """Whether the connection is open and not known to be broken."""
        return self._connection is not None and not self._connection.closed

    def _open(self) -> _Connection:
        # Known at once, so that whoever abandons it need not wait for what is asked first.
        self._connection = connection = self.database.open(self.application_name)
        try:
            self.far_s = max(0.0, min(_answers_after_s(connection) for _ in range(2)) - _NEAR_S)
            (found,) = connection.execute(
                """
                select pg_catalog.current_setting('server_version_num')::int,
                       pg_catalog.pg_backend_pid(),
                       pg_catalog.current_setting('search_path'),
                       pg_catalog.current_setting('synchronous_commit'),
                       extract(epoch from pg_catalog.current_setting('deadlock_timeout')::interval)::double precision
                """
            ).fetchall()
        except psycopg.Error as error:
            self.close()
            raise UnreachableError(
                f"The database {self.database} broke the connection off: {explain(error)}."
            ) from None
        except BaseException:
            self.close()
            raise
        self.server_version, self.backend_pid, self._search_path, synchronous, self.deadlock_timeout_s = found
        self._waits = synchronous not in ("off", "local")
        # A pooler gives its clients a process id of its own making.
        self.pooled = self.backend_pid != connection.info.backend_pid
        if not self.pooled:
            connection.prepare_threshold = sys.maxsize  # what asks for it, and nothing else
            if self.server_version >= 140000:
                self._end_when_idle(connection)
        self._begins.clear()
        self.generation += 1
        return connection

    def _end_when_idle(self, connection: "psycopg.Connection[Row]") -> None:
        """Have the server end the session, and with it our locks, when the client freezes between transactions."""
        try:
            # Between our transactions, and for the statement that begins one, the database's own timeout would hold.
            connection.execute(
                sql.SQL("set statement_timeout = '10s'; set idle_session_timeout = {}").format(
                    sql.Literal(_IDLE_SESSION_TIMEOUT)
                )
            )
        except psycopg.Error as error:
            self.close()
            raise UnreachableError(
                f"The database {self.database} broke the connection off: {explain(error)}."
            ) from None

    def reconnect(self, stop: threading.Event) -> bool:
        """Drop the connection and open a new one, with growing pauses, for about a minute.

        Returns whether it was done; false where `stop` was set or the database stayed away.
        """
        self.close()
        for pause in _RECONNECT_PAUSES_S:
            if stop.wait(pause):
                return False
            try:
                self._open()
            except UnreachableError:
                continue
            return True
        return False

    def close(self) -> None:
        """Close the connection, if there is one; whatever it was doing is rolled back by the server."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def second(self) -> "Session":
        """Another one to the same database, for a thread beside: whoever cuts this one short cuts that one too."""
        self._second = Session(self.database, self.application_name)
        return self._second

    def cancel(self) -> None:
        """Ask the server to cancel the statement under way; may be called from another thread."""
        connection = self._connection
        if connection is not None and not connection.closed:
            with suppress(psycopg.Error):  # the statement's own timeout ends it
                connection.cancel_safe(timeout=5.0)
        if self._second is not None:
            self._second.cancel()

    def abandon(self) -> None:
        """Cut the connection, where the server does not even answer a cancel; may be called from another thread."""
        connection = self._connection
        if connection is not None and not connection.closed:
            with suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as wire:
                wire.shutdown(socket.SHUT_RDWR)
        if self._second is not None:
            self._second.abandon()

    @contextmanager
    def transaction(self, limits: Limits, *, writes: bool = False, rows: bool = False) -> Iterator["Transaction"]:
        """Run a transaction with every setting pinned; it commits at the end of the block, or rolls back.

        With `rows` it only reads, and rows of the app's: what these set off finds its names as where one `writes`.

        Raises `LostConnectionError` where the connection broke before the commit or can't be made again,
        `CommitInDoubtError` where it broke during it, and the server's own error otherwise.
        """
        try:
            connection = self.connection
        except UnreachableError as error:
            if self.generation == 0:
                raise
            raise LostConnectionError(str(error)) from None
        connection.patience_s = limits.statement_s + _SILENCE_S
        try:
            began = time.monotonic()
            connection.execute(self._begin(limits, writes=writes, rows=rows))
            # No statement is faster than its way: a near server that was busy when we connected is soon known as near.
            self.far_s = min(self.far_s, max(0.0, time.monotonic() - began - _NEAR_S))
            transaction = Transaction(connection)
            yield transaction
            xid = transaction.xid() if writes else None
        except psycopg.Error as error:
            if connection.closed or isinstance(error, _SERVER_WENT_AWAY):
                self.close()
                raise LostConnectionError(f"The connection to {self.database} was lost: {explain(error)}.") from None
            self._roll_back(connection)
            raise
        except BaseException:
            self._roll_back(connection)
            raise
        self._commit(connection, xid)

    def _begin(self, limits: Limits, *, writes: bool, rows: bool) -> bytes:
        """Composed once: that would take a third of an empty transaction's time."""
        if (limits, writes, rows) not in self._begins:
            path = self._search_path if writes or rows else ""
            begin = sql.SQL(
                "begin isolation level read committed {mode}; {pins};"
                " select pg_catalog.set_config('statement_timeout', {statement}, true),"
                " pg_catalog.set_config('lock_timeout', {lock}, true)"
            ).format(
                mode=sql.SQL("" if writes else "read only"),
                pins=_pins(self.server_version, path, waits=self._waits),
                statement=sql.Literal(f"{_milliseconds(limits.statement_s)}ms"),
                lock=sql.Literal(f"{_milliseconds(limits.lock_s)}ms"),
            )
            self._begins[limits, writes, rows] = begin.as_bytes()
        return self._begins[limits, writes, rows]

    def _commit(self, connection: "psycopg.Connection[Row]", xid: int | None) -> None:
        try:
            connection.execute("commit")
        except psycopg.Error as error:
            if not (connection.closed or isinstance(error, _SERVER_WENT_AWAY)):
                self._roll_back(connection)
                raise  # a deferred constraint, say: the server has rolled back
            self.close()
            message = f"The connection to {self.database} was lost during a commit: {explain(error)}."
            raise (CommitInDoubtError(message, xid) if xid is not None else LostConnectionError(message)) from None
        self.written += xid is not None

    @staticmethod
    def _roll_back(connection: "psycopg.Connection[Row]") -> None:
        try:
            connection.execute("rollback")
        except psycopg.Error:
            connection.close()

    def settled(self, xid: int) -> bool | None:
        """Whether transaction `xid` was committed; None where the server does not know (any more).

        Raises `LostConnectionError`.
        """
        try:
            with self.transaction(Limits(statement_s=5.0)) as transaction:
                (status,) = transaction.one(
                    sql.SQL("select pg_catalog.pg_xact_status({}::xid8)").format(sql.Literal(str(xid)))
                )
        except errors.InvalidParameterValue:
            return False  # "is in the future": this server, crashed or another by now, has never heard of it
        except psycopg.Error:
            return None
        return {"committed": True, "aborted": False}.get(str(status))


def _answers_after_s(connection: "psycopg.Connection[Row]") -> float:
    """How long the server takes to answer where there is nothing to do."""
    began = time.monotonic()
    connection.execute("select")
    return time.monotonic() - began


class Transaction:
    """What may be done within one transaction. `asked` is how many statements there were."""

    def __init__(self, connection: "psycopg.Connection[Row]") -> None:
        self.asked = 0
        self._connection = connection
        self._changed = False

    def rows(self, query: Query, parameters: Parameters = (), *, prepared: bool = False) -> list[Row]:
        """Run a query and fetch all of its rows.

        Values stand in queries as literals, composed by `psycopg.sql`; what is personal goes as a parameter ($1), which
        the server does not log with a statement that failed. What is asked often, word for word, is planned once where
        it is to be `prepared`.
        """
        return self._execute(query, parameters, prepared=prepared).fetchall()

    def one(self, query: Query, parameters: Parameters = (), *, prepared: bool = False) -> Row:
        """Run a query that returns exactly one row, and fetch it."""
        (row,) = self.rows(query, parameters, prepared=prepared)
        return row

    def run(self, statement: Query, parameters: Parameters = ()) -> int:
        """Run a statement that leaves the app's tables as they are; returns how many rows it was about."""
        return int(self._execute(statement, parameters).rowcount)

    def change(self, statement: Query, parameters: Parameters = ()) -> int:
        """Run a statement that changes rows; returns how many it changed, to be believed after the commit only."""
        changed = self.run(statement, parameters)
        self._changed = self._changed or changed > 0
        return changed

    def change_and_tell(self, query: Query, parameters: Parameters = ()) -> Row:
        """Run a query that changes rows and returns one row, in which the first value is how many it changed."""
        row = self.one(query, parameters)
        self._changed = self._changed or row[0] > 0
        return row

    def _execute(self, query: Query, parameters: Parameters, *, prepared: bool = False) -> psycopg.Cursor[Row]:
        self.asked += 1
        # A raw cursor, since others would take a `%` in a table's name for a placeholder.
        return psycopg.RawCursor(self._connection).execute(query, parameters or None, prepare=prepared or None)

    def xid(self) -> int | None:
        """The transaction's id, if it has changed anything."""
        if not self._changed:
            return None
        (xid,) = self.one(sql.SQL("select pg_catalog.pg_current_xact_id_if_assigned()::text"), prepared=True)
        return None if xid is None else int(xid)


# Raised by a server that ends our connection, also where psycopg has not noticed yet that it is gone.
_SERVER_WENT_AWAY = (
    errors.AdminShutdown,
    errors.IdleSessionTimeout,
    errors.CrashShutdown,
    errors.CannotConnectNow,
    errors.IdleInTransactionSessionTimeout,
)


def _milliseconds(seconds: float) -> int:
    return max(1, math.floor(seconds * 1000))


def _pins(server_version: int, search_path: str, *, waits: bool) -> sql.Composed:
    """Every setting on which correctness rests, for the length of one transaction.

    The app's triggers, and functions in its indexes and generated columns, run in our session and may rely on the
    role's own `search_path`: where its rows are written or read, that is kept behind `pg_catalog`. There, whoever may
    create a function or operator could have it preferred to one of pg_catalog's that takes the arguments only by a cast
    or as of any type: our statements give the very types, or name the schema. All others see pg_catalog alone.
    `row_security = off` makes the server raise where a policy would hide rows.
    """
    settings = {
        "search_path": ", ".join(part for part in ("pg_catalog", search_path, "pg_temp") if part),
        "TimeZone": "UTC",
        "DateStyle": "ISO, YMD",
        "IntervalStyle": "postgres",
        "client_encoding": "UTF8",
        "client_min_messages": "error",
        "row_security": "off",
        "max_parallel_workers_per_gather": "0",
        "jit": "off",
        "idle_in_transaction_session_timeout": f"{_milliseconds(IDLE_IN_TRANSACTION_TIMEOUT_S)}ms",
    }
    if waits:
        # A standby that does not answer would hold a commit, and its locks, for good: no timeout holds there. What a
        # failover loses of a cleanup is cleaned again.
        settings["synchronous_commit"] = "local"
    if server_version >= 130000:
        settings["log_parameter_max_length_on_error"] = "0"  # references are parameters, and name people
    if server_version >= 170000:
        settings["transaction_timeout"] = "0"
    return sql.SQL("select {}").format(
        sql.SQL(", ").join(
            sql.SQL("pg_catalog.set_config({}, {}, true)").format(sql.Literal(name), sql.Literal(value))
            for name, value in settings.items()
        )
    )


_CONDITIONS = {
    "23503": "rows of another table refer to it",
    "23514": "a check constraint forbids it",
    "23502": "a not-null constraint forbids it",
    "23505": "a unique constraint forbids it",
    "23P01": "an exclusion constraint forbids it",
    "25006": "the transaction is read-only",
    "40001": "a serialization failure",
    "40P01": "a deadlock",
    "42501": "a privilege is missing",
    "42P01": "a table does not exist",
    "42703": "a column does not exist",
    "42883": "a function or operator does not exist",
    "53100": "the server's disk is full",
    "53200": "the server is out of memory",
    "53300": "all connections are used up",
    "55P03": "a lock was not free (lock_timeout)",
    "57014": "it was cancelled (statement_timeout)",
    "57P01": "the server ended the connection",
    "57P02": "the server crashed",
    "57P03": "the server is starting up or shutting down",
    "25P03": "the transaction was idle for too long",
    "P0001": "a trigger raised an exception",
}


def explain(error: psycopg.Error) -> str:
    """What the server said, without a word that may hold data: condition, code, and the names of its objects.

    A primary message may quote a value (`invalid input syntax for type uuid: "…"`), DETAIL and CONTEXT a whole row.
    """
    state = error.sqlstate
    if isinstance(error, _SilentError):
        return "the server did not answer any more"
    if state is None:
        return (
            "the server closed the connection" if isinstance(error, psycopg.OperationalError) else type(error).__name__
        )
    named = _CONDITIONS.get(state) or re.sub(r"(?<!^)(?=[A-Z])", " ", type(error).__name__).lower()
    if state == "23514" and not error.diag.constraint_name and _is_the_servers_own(error):
        named = "its partition's bounds forbid it"
    if error.diag.source_function == "check_enable_rls":  # in whatever language the message is
        named = "a row-level security policy would hide rows from this role"
    return f"{named} ({', '.join([f'SQLSTATE {state}', *_objects(error)])})"


# Where the server itself names a constraint, its table and column. A trigger's `raise … using constraint = …` may put
# anything in their place, in whatever language: its errors come from the sources of that language.
_NAMING_SOURCES = (
    "domains.c",
    "execExprInterp.c",
    "execIndexing.c",
    "execMain.c",
    "execPartition.c",
    "nbtinsert.c",
    "ri_triggers.c",
)


def names_constraint(error: psycopg.Error) -> bool:
    """Whether the server itself says which constraint was violated."""
    return error.diag.constraint_name is not None and _is_the_servers_own(error)


def _is_the_servers_own(error: psycopg.Error) -> bool:
    return re.split(r"[/\\]", error.diag.source_file or "")[-1] in _NAMING_SOURCES


def _objects(error: psycopg.Error) -> list[str]:
    if not _is_the_servers_own(error):
        return []
    diag = error.diag
    return [
        f"{kind} {name}"
        for kind, name in (
            ("table", f"{diag.schema_name}.{diag.table_name}" if diag.table_name else None),
            ("column", diag.column_name),
            ("constraint", diag.constraint_name),
        )
        if name
    ]
