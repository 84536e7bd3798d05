"""Connecting: what is refused and in which words, never with a password; and what each transaction pins."""

import socket
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from psycopg import Connection, errors, sql
from psycopg.conninfo import conninfo_to_dict

from cleanup_pipeline.demo.server import DemoUnavailableError, embedded_server
from cleanup_pipeline.postgres import (
    CONNECT_TIMEOUT_S,
    ConfigurationError,
    Database,
    Limits,
    LostConnectionError,
    Session,
    UnreachableError,
    explain,
)
from cleanup_pipeline_tests.databases import name_of, url_of

App = Connection[Any]

SECRET = "s3cret"
LIMITS = Limits(statement_s=5.0)


# --- URLs.


@pytest.mark.parametrize("url", [None, "", " ", "\n"])
def test_a_missing_url_names_the_variable_that_is_to_be_set(url: str | None) -> None:
    with pytest.raises(ConfigurationError, match="SOME_VARIABLE is not set"):
        Database.parse(url, "SOME_VARIABLE")
    with pytest.raises(ConfigurationError, match="CLEANUP_DATABASE_URL is not set"):
        Database.parse(url)


MALFORMED = [
    f"{SECRET}",
    f"postgresql//app:{SECRET}@db.example.com/after_hours",
    f"postgres:/app:{SECRET}@db.example.com/after_hours",
    f"http://app:{SECRET}@db.example.com/after_hours",
    f"postgresql://app:{SECRET}@{SECRET}@db.example.com/after_hours",
    f"postgresql://app:{SECRET}/{SECRET}@db.example.com/after_hours",
    f"postgresql://app:12/{SECRET}@db.example.com/after_hours",
    f"postgresql://app:1@{SECRET}?user={SECRET}@db.example.com/after_hours",
    f"postgresql://app:1@{SECRET}/{SECRET}@db.example.com/after_hours",
    f"postgresql://{SECRET}?host=/{SECRET}@db.example.com/after_hours",
    f"postgresql://app:{SECRET}#{SECRET}@db.example.com:54x2/after_hours",
    f"postgresql://app:%zz{SECRET}@db.example.com/after_hours",
    f"postgresql://app:{SECRET}@db.example.com/after_hours?no_such_parameter={SECRET}",
    f"postgresql://app:{SECRET}@db.example.com:port/after_hours",
    f"postgresql://app:{SECRET}@[::1/after_hours",
    f"host=db.example.com password='{SECRET}",
    f"host=db.example.com password={SECRET} {SECRET}",
    f"host = = {SECRET}",
    f"https://postgresql://app:{SECRET}@db.example.com/after_hours",
    f"postgresql://postgresql://app:{SECRET}@db.example.com/after_hours",
    f"postgresql://app:{SECRET}\udcff@db.example.com/after_hours",
    f"postgresql://app:{SECRET}%ff@db.example.com/after_hours",
    f"postgresql://app:{SECRET}@db.example.com/after_hours?replication=database",
]


@pytest.mark.parametrize("url", MALFORMED)
def test_a_malformed_url_is_refused_and_never_quoted(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Database.parse(url)
    told = "".join(traceback.format_exception_only(refused.value)) + repr(refused.value)
    assert SECRET not in told
    assert "CLEANUP_DATABASE_URL" in told
    assert refused.value.__context__ is None or refused.value.__suppress_context__


ODD_PASSWORDS = [
    "p@ss",
    "a:b",
    "a/b",
    "a?b",
    "a#b",
    "a%b",
    "a b",
    "a'b",
    'a"b',
    "a\\b",
    "a&b=c",
    "ünï🐘",
    "+",
    "%40",
    "[x]",
]


@pytest.mark.parametrize("password", ODD_PASSWORDS)
def test_a_password_of_special_characters_is_understood_and_shown_nowhere(password: str) -> None:
    written = quote(password + SECRET, safe="")
    database = Database.parse(f"postgresql://app:{written}@db.example.com:6543/after_hours?sslmode=disable")
    assert database.parameters["password"] == password + SECRET
    assert str(database) == "db.example.com:6543/after_hours"
    for told in (str(database), repr(database), repr(Session(database)), repr(vars(Session(database)))):
        assert SECRET not in told


@pytest.mark.parametrize(
    ("url", "label"),
    [
        ("postgresql://app@db.example.com/after_hours", "db.example.com:5432/after_hours"),
        ("postgres://app@db.example.com:1/after_hours", "db.example.com:1/after_hours"),
        ("postgresql:///after_hours", "localhost:5432/after_hours"),
        ("postgresql://app@/after_hours?host=/run/postgresql", "/run/postgresql:5432/after_hours"),
        ("postgresql://app@db.example.com", "db.example.com:5432/app"),
        ("postgresql://one,two:5433/after_hours", "one,two:,5433/after_hours"),
        ("postgresql://[::1]:5433/after_hours", "::1:5433/after_hours"),
        ("host=db.example.com port=7 dbname=after_hours", "db.example.com:7/after_hours"),
        ("hostaddr=192.0.2.1 dbname=after_hours", "192.0.2.1:5432/after_hours"),
    ],
)
def test_a_database_is_told_by_its_host_port_and_name(url: str, label: str) -> None:
    assert str(Database.parse(url)) == label


# --- Databases that can't be reached.


def why_unreachable(database: Database) -> str:
    with pytest.raises(UnreachableError) as refused:
        database.open()
    told = str(refused.value)
    assert SECRET not in f"{told}{refused.value!r}"
    assert refused.value.__suppress_context__
    assert database.label in told
    assert "\n" not in told
    return told


def with_parameters(url: str, **parameters: Any) -> Database:
    database = Database.parse(url)
    return Database(database.parameters | parameters, database.label)


def test_a_port_on_which_nothing_listens_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    told = why_unreachable(Database.parse(f"postgresql://app:{SECRET}@127.0.0.1:{port}/after_hours"))
    assert f"127.0.0.1:{port}/after_hours" in told
    assert "nothing listens there" in told


def test_a_socket_folder_without_a_server_is_told(tmp_path: Path) -> None:
    told = why_unreachable(Database.parse(f"postgresql://app:{SECRET}@/after_hours?host={quote(str(tmp_path))}"))
    assert "nothing listens there" in told


def test_an_unknown_host_is_told() -> None:
    told = why_unreachable(Database.parse(f"postgresql://app:{SECRET}@no-such-host.invalid/after_hours"))
    assert "its host name is unknown" in told


def test_a_host_that_accepts_and_never_answers_is_given_up_in_bounded_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        began = time.monotonic()
        told = why_unreachable(
            Database.parse(f"postgresql://app:{SECRET}@127.0.0.1:{port}/after_hours?connect_timeout=2")
        )
    assert time.monotonic() - began < 6
    assert "no answer" in told


@pytest.mark.parametrize("configured", ["3600", "0", "-1", "soon", ""])
@pytest.mark.parametrize(("hosts", "seconds"), [("one", CONNECT_TIMEOUT_S), ("one,two,three", 3), ("a,b,c,d,e,f,g", 2)])
def test_a_connect_timeout_can_be_shortened_in_the_url_and_not_lengthened_and_is_shared_by_its_hosts(
    configured: str, hosts: str, seconds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    def connect(**parameters: Any) -> None:
        given.update(parameters)
        raise psycopg.OperationalError("refused")

    monkeypatch.setattr(psycopg.Connection, "connect", connect)
    database = Database({"host": hosts, "connect_timeout": configured}, "db.example.com:5432/")
    with pytest.raises(UnreachableError):
        database.open()
    assert given["connect_timeout"] == seconds


@pytest.mark.parametrize("sslmode", ["prefer", "disable"])
def test_a_peer_that_speaks_another_protocol_is_told(sslmode: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        thread = threading.Thread(target=greet, args=(other,), daemon=True)
        thread.start()
        port = other.getsockname()[1]
        told = why_unreachable(
            Database.parse(
                f"postgresql://app:{SECRET}@127.0.0.1:{port}/after_hours?sslmode={sslmode}&connect_timeout=3"
            )
        )
        thread.join(5)
    assert "can't be reached: what listens there does not speak PostgreSQL's protocol" in told
    assert "TLS" not in told


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("target_session_attrs", "standby"),
        ("target_session_attrs", SECRET),
        ("channel_binding", SECRET),
        ("options", f"-c {SECRET}=1"),
        ("options", "-c role=postgres"),
        ("options", f"-c work_mem={SECRET}"),
        ("options", SECRET),
    ],
)
def test_a_parameter_that_can_not_be_is_told_by_its_name(app: App, database: str, parameter: str, value: str) -> None:
    with role(app, database, "login") as name:
        told = why_unreachable(with_parameters(database, user=name, **{parameter: value}))
    assert f"URL's {parameter}" in told
    assert "reached" not in told


def greet(listener: socket.socket) -> None:
    client, _ = listener.accept()
    with client:
        client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def test_an_unknown_database_is_told(server_url: str) -> None:
    told = why_unreachable(with_parameters(url_of(server_url, "no_such_database"), password=SECRET))
    assert "no_such_database does not exist on that server" in told


def test_an_unknown_role_is_told(server_url: str) -> None:
    told = why_unreachable(with_parameters(server_url, user="no_such_role", password=SECRET))
    assert "refused the login" in told


@contextmanager
def role(app: App, database: str, attributes: str) -> Iterator[str]:
    name = f"role_of_{name_of(database)}"
    app.execute(sql.SQL("create role {} {}").format(sql.Identifier(name), sql.SQL(attributes)))
    try:
        yield name
    finally:
        app.execute(sql.SQL("drop owned by {}").format(sql.Identifier(name)))
        app.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))


@pytest.mark.parametrize(
    ("attributes", "told"),
    [("nologin", "the role may not log in"), ("login connection limit 0", "connection limit of the role")],
)
def test_a_role_that_may_not_connect_is_told(app: App, database: str, attributes: str, told: str) -> None:
    with role(app, database, attributes) as name:
        assert told in why_unreachable(with_parameters(database, user=name, password=SECRET))


def test_a_database_that_admits_nobody_is_told(app: App, database: str) -> None:
    with role(app, database, "login") as name:
        app.execute(sql.SQL("revoke connect on database {} from public").format(sql.Identifier(name_of(database))))
        assert "no CONNECT privilege" in why_unreachable(with_parameters(database, user=name))


def test_a_database_without_a_connection_left_is_told(app: App, database: str) -> None:
    with role(app, database, "login") as name:
        app.execute(sql.SQL("alter database {} connection limit 0").format(sql.Identifier(name_of(database))))
        assert "connection limit" in why_unreachable(with_parameters(database, user=name))


def test_a_database_that_is_closed_to_everybody_is_told_as_that(app: App, database: str, server_url: str) -> None:
    closed = f"{name_of(database)}_closed"
    app.execute(sql.SQL("create database {} allow_connections false").format(sql.Identifier(closed)))
    try:
        told = why_unreachable(Database.parse(url_of(server_url, closed)))
        assert "server runs" not in told, "the server runs, and the URL is right"
    finally:
        app.execute(sql.SQL("drop database {}").format(sql.Identifier(closed)))


# --- Passwords, on a server that asks for one.

PASSWORD = "p@ss:w/rd%#? 'ü" + SECRET


@pytest.fixture(scope="module")
def guarded_by_password() -> Iterator[str]:
    """The URL, without login, of a server that asks the role `cleaner` for its password."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with embedded_server(Path(folder) / "server", durable=False) as server:
                with psycopg.connect(server.url(), autocommit=True) as admin:
                    admin.execute(sql.SQL("create role cleaner login password {}").format(sql.Literal(PASSWORD)))
                    (hba,) = admin.execute("show hba_file").fetchone() or ("",)
                    rules = Path(hba).read_text()
                    Path(hba).write_text(f"local all outsider reject\nlocal all cleaner scram-sha-256\n{rules}")
                    admin.execute("create role outsider login")
                    admin.execute("select pg_reload_conf()")
                    wait_for_password(server.url())
                yield server.url()
        except DemoUnavailableError as unavailable:
            pytest.skip(str(unavailable))


def wait_for_password(url: str) -> None:
    """Wait until the server has read its configuration again."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            with_parameters(url, user="cleaner").open().close()
        except UnreachableError:
            return
        time.sleep(0.01)
    raise AssertionError("the server does not ask for a password")


def login(url: str, user: str, password: str | None) -> Database:
    parts = conninfo_to_dict(url)
    secret = "" if password is None else f":{quote(password, safe='')}"
    return Database.parse(
        f"postgresql://{user}{secret}@/postgres?host={quote(str(parts['host']))}&port={parts['port']}"
    )


def test_the_right_password_lets_in_whatever_characters_it_has(guarded_by_password: str) -> None:
    with (
        Session(login(guarded_by_password, "cleaner", PASSWORD)) as session,
        session.transaction(LIMITS) as transaction,
    ):
        assert transaction.one(sql.SQL("select current_user::text")) == ("cleaner",)


@pytest.mark.parametrize("password", [f"wrong {SECRET}", f"{PASSWORD} ", None])
def test_a_wrong_or_missing_password_is_told_and_not_repeated(guarded_by_password: str, password: str | None) -> None:
    told = why_unreachable(login(guarded_by_password, "cleaner", password))
    assert "the user or password is wrong" in told


def test_a_login_that_the_server_does_not_admit_is_told(guarded_by_password: str) -> None:
    assert "pg_hba.conf" in why_unreachable(login(guarded_by_password, "outsider", SECRET))


# --- Sessions and transactions.


@pytest.fixture
def session(database: str) -> Iterator[Session]:
    with Session(Database.parse(database)) as session:
        yield session


def shown(session: Session, *names: str) -> list[str]:
    with session.transaction(Limits(statement_s=3.0, lock_s=0.05)) as transaction:
        return [transaction.one(sql.SQL("select current_setting({})").format(sql.Literal(name)))[0] for name in names]


def test_a_session_connects_when_it_is_first_used(session: Session) -> None:
    assert session.generation == 0
    assert not session.alive
    assert not session.connection.closed
    assert session.alive
    assert session.generation == 1


def test_each_transaction_pins_what_correctness_rests_on(app: App, database: str, session: Session) -> None:
    name = sql.Identifier(name_of(database))
    for setting, value in {
        "TimeZone": "Asia/Tokyo",
        "DateStyle": "German",
        "default_transaction_isolation": "serializable",
        "row_security": "on",
        "statement_timeout": "1s",
        "search_path": "decoy, public",
        "transaction_timeout": "10s",
        "log_parameter_max_length_on_error": "-1",
    }.items():
        if app.execute("select from pg_settings where name = %s", [setting]).fetchall():
            app.execute(
                sql.SQL("alter database {} set {} = {}").format(
                    name, sql.Identifier(setting), sql.SQL(value) if "," in value else sql.Literal(value)
                )
            )
    assert shown(session, "TimeZone", "DateStyle", "transaction_isolation", "row_security", "client_encoding") == [
        "UTC",
        "ISO, YMD",
        "read committed",
        "off",
        "UTF8",
    ]
    assert shown(session, "statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout") == [
        "3s",
        "50ms",
        "5s",
    ]
    assert shown(session, "search_path") == ["pg_catalog, pg_temp"]
    with session.transaction(LIMITS, rows=True) as transaction:
        assert transaction.one(sql.SQL("show search_path")) == ("pg_catalog, decoy, public, pg_temp",)
    assert shown(session, "log_parameter_max_length_on_error") == ["0"]
    if session.server_version >= 170000:
        assert shown(session, "transaction_timeout") == ["0"]


def test_a_transaction_that_does_not_write_can_not_write(session: Session) -> None:
    with pytest.raises(errors.ReadOnlySqlTransaction), session.transaction(LIMITS) as transaction:
        transaction.run(sql.SQL("delete from public.users"))
    assert shown(session, "transaction_read_only") == ["on"]


def test_a_transaction_commits_at_its_end_and_rolls_back_on_any_error(app: App, session: Session) -> None:
    insert = sql.SQL("insert into public.users (id, provider) values ({}, 'phone')")
    with session.transaction(LIMITS, writes=True) as transaction:
        assert transaction.change(insert.format(sql.Literal("kept"))) == 1

    def divide_by_zero() -> None:
        with session.transaction(LIMITS, writes=True) as transaction:
            transaction.change(insert.format(sql.Literal("lost")))
            raise ZeroDivisionError

    def insert_twice() -> None:
        with session.transaction(LIMITS, writes=True) as transaction:
            transaction.change(insert.format(sql.Literal("lost too")))
            transaction.change(insert.format(sql.Literal("kept")))

    with pytest.raises(ZeroDivisionError):
        divide_by_zero()
    with pytest.raises(errors.UniqueViolation):
        insert_twice()
    assert app.execute("select id from users").fetchall() == [("kept",)]
    assert session.generation == 1


def test_a_statement_that_takes_too_long_is_ended(session: Session) -> None:
    began = time.monotonic()
    with pytest.raises(errors.QueryCanceled), session.transaction(Limits(statement_s=0.1)) as transaction:
        transaction.rows(sql.SQL("select pg_sleep(60)"))
    assert time.monotonic() - began < 5
    assert shown(session, "TimeZone") == ["UTC"]


def test_a_statement_can_be_cancelled_from_another_thread(app: App, session: Session) -> None:
    pid = session.connection.info.backend_pid
    waiting = "select wait_event from pg_stat_activity where pid = %s"

    def cancel() -> None:
        deadline = time.monotonic() + 10
        while app.execute(waiting, [pid]).fetchall() != [("PgSleep",)] and time.monotonic() < deadline:
            time.sleep(0.002)
        session.cancel()

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(errors.QueryCanceled), session.transaction(Limits(statement_s=60.0)) as transaction:
        transaction.rows(sql.SQL("select pg_sleep(60)"))
    thread.join()


def terminate(app: App, session: Session) -> None:
    app.execute("select pg_terminate_backend(%s, 10000)", [session.connection.info.backend_pid])


def test_a_connection_that_is_lost_is_told_and_can_be_made_again(app: App, session: Session) -> None:
    def lose() -> None:
        with session.transaction(LIMITS) as transaction:
            terminate(app, session)
            transaction.rows(sql.SQL("select 1"))

    with pytest.raises(LostConnectionError) as lost:
        lose()
    assert str(session.database) in str(lost.value)
    assert not session.alive
    assert session.reconnect(threading.Event())
    assert session.generation == 2
    assert shown(session, "TimeZone") == ["UTC"]


def test_reconnecting_ends_when_it_is_asked_to_stop(session: Session) -> None:
    stop = threading.Event()
    stop.set()
    assert not session.reconnect(stop)


def test_a_client_that_is_idle_within_a_transaction_for_too_long_has_lost_its_connection(
    session: Session, monkeypatch: pytest.MonkeyPatch, app: App
) -> None:
    monkeypatch.setattr("cleanup_pipeline.postgres.IDLE_IN_TRANSACTION_TIMEOUT_S", 0.05)
    pid = session.connection.info.backend_pid

    def freeze() -> None:
        with session.transaction(LIMITS) as transaction:
            deadline = time.monotonic() + 10
            while app.execute("select from pg_stat_activity where pid = %s", [pid]).fetchall():
                assert time.monotonic() < deadline
                time.sleep(0.01)
            transaction.rows(sql.SQL("select 1"))

    with pytest.raises(LostConnectionError):
        freeze()


def test_a_transaction_knows_its_fate_after_the_fact(app: App, session: Session) -> None:
    xids = []
    for finish in ("commit", "rollback"):
        with psycopg.connect(app.info.dsn, autocommit=True, host=app.info.host) as other:
            other.execute("begin")
            other.execute("create table made ()" if finish == "commit" else "create table never_made ()")
            xids.append(int((other.execute("select pg_current_xact_id()::text").fetchone() or (0,))[0]))
            other.execute(finish.encode())
    assert [session.settled(xid) for xid in xids] == [True, False]
    assert session.settled(2**40 + 3) is False, "no server that has carried it out has not heard of it"


# --- What is told of errors.


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        (f"select '{SECRET}'::uuid", "22P02"),
        (f"select '{SECRET}'::int", "22P02"),
        (f"insert into users (id, provider) values ('{SECRET}', null)", "column provider"),
        (f"insert into users (id, provider) select '{SECRET}', 'phone' from generate_series(1, 2)", "users_pkey"),
        (f"do $$ begin raise exception '{SECRET}' using detail = '{SECRET}', hint = '{SECRET}'; end $$", "P0001"),
        (
            f"insert into device_fingerprints (user_id, device_id) values ('{SECRET}', '')",
            "device_fingerprints_user_id_fkey",
        ),
        (
            f"do $$ begin raise exception '' using errcode = '23514', constraint = '{SECRET}', table = '{SECRET}',"
            f" schema = '{SECRET}', column = '{SECRET}'; end $$",
            "a check constraint forbids it (SQLSTATE 23514)",
        ),
        (
            f"create table parted (word text) partition by list (word); create table other partition of parted"
            f" for values in ('other'); insert into other values ('{SECRET}')",
            "its partition's bounds forbid it (SQLSTATE 23514, table public.other)",
        ),
        (f"insert into users (id, provider) values (repeat('{SECRET}', 100), '')", "22001"),
        (f'select "{SECRET}" from users', "42703"),
    ],
)
def test_an_error_is_told_by_its_code_and_objects_and_never_by_the_servers_words(
    app: App, statement: str, told: str
) -> None:
    with pytest.raises(psycopg.Error) as raised:
        app.execute(statement.encode())
    explained = explain(raised.value)
    assert told in explained
    assert SECRET not in explained
