import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from cleanup_pipeline_tests.cli.conftest import Ended

Cli = Callable[..., Ended]


def assert_could_not_begin(done: Ended, *words: str) -> None:
    assert done.code == 2
    assert done.out == ""
    assert len(done.err.splitlines()) in (1, 2)
    for word in words:
        assert word in done.err


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["run", "--rule", "old_sessions"], "old_sessions"),
        (["plan", "--rule", ""], "--rule"),
        (["run", "--retention-days", "0"], "--retention-days"),
        (["run", "--retention-days", "-1"], "--retention-days"),
        (["run", "--retention-days", "abc"], "abc"),
        (["run", "--retention-days", "7.0"], "7.0"),
        (["run", "--retention-days", "36501"], "36500"),
        (["plan", "--retention-days", "1_0"], "1_0"),
        (["run", "--retention-days", "7", "--rule", "expired_sessions"], "old_declines"),
        (["plan", "--retention-days", "7", "--rule", "orphaned_profiles"], "old_declines"),
        (["run", "--as-of", "yesterday"], "ISO 8601"),
        (["run", "--as-of", ""], "ISO 8601"),
        (["run", "--as-of", "2026-11-01T04:00:00"], "zone"),
        (["plan", "--as-of", "2026-11-01"], "zone"),
        (["plan", "--as-of", "0001-01-01T00:00:00+14:00"], "1900"),
        (["run", "--as-of", "9999-12-31T23:59:59-14:00"], "9999"),
        (["run", "--max-rows", "0"], "--max-rows"),
        (["run", "--max-rows", "1e6"], "--max-rows"),
        (["run", "--max-seconds", "0"], "--max-seconds"),
        (["run", "--allow-share", "0.5"], "--reason"),
        (["run", "--allow-share", "0.5", "--reason", " "], "--reason"),
        (["run", "--allow-share", "0", "--reason", "r"], "--allow-share"),
        (["run", "--allow-share", "1.01", "--reason", "r"], "--allow-share"),
        (["run", "--allow-share", "nan", "--reason", "r"], "--allow-share"),
        (["run", "everything"], "everything"),
        (["plan", "--max-rows", "1"], "--max-rows"),
        (["sweep"], "sweep"),
    ],
)
def test_wrong_usage_is_told_in_two_lines(cli: Cli, arguments: list[str], word: str) -> None:
    assert_could_not_begin(cli(*arguments), word, "--help")


@pytest.mark.parametrize("role", ["public", "none", ""])
def test_grants_are_printed_for_a_role_alone_and_not_for_everybody(cli: Cli, role: str) -> None:
    assert_could_not_begin(cli("grants", "--role", role), f'"{role}" is no role', "name the role")


def test_a_role_that_is_named_like_a_word_of_sql_is_quoted(cli: Cli) -> None:
    granting = cli("grants", "--role", "current_user")
    assert granting.code == 0
    assert all(line.endswith(' to "current_user";') for line in granting.out.splitlines())


@pytest.mark.parametrize("command", ["run", "plan"])
def test_an_as_of_in_the_future_of_the_databases_clock_is_refused(cli: Cli, command: str) -> None:
    assert_could_not_begin(cli(command, "--json", "--as-of", "2999-01-01T00:00:00Z"), "future")


@pytest.mark.parametrize("command", ["run", "plan", "doctor"])
@pytest.mark.parametrize(
    ("url", "word"),
    [
        (None, "CLEANUP_DATABASE_URL is not set"),
        ("", "CLEANUP_DATABASE_URL is not set"),
        ("postgresql:/me:pass@word@host/db", "CLEANUP_DATABASE_URL is not a libpq URL"),
        ("postgresql://me:pa%ssword@host/db", "CLEANUP_DATABASE_URL is not a libpq URL"),
        ("postgresql://me:password@127.0.0.1:1/somewhere", "127.0.0.1:1/somewhere"),
        ("postgresql://me:password@nowhere.invalid/somewhere", "host name"),
    ],
)
def test_a_database_that_can_not_be_reached_is_told(cli: Cli, command: str, url: str | None, word: str) -> None:
    done = cli(command, "--json", CLEANUP_DATABASE_URL=url)
    assert_could_not_begin(done, word)
    assert "word" not in done.err.replace("password@host", "").replace("password.", "")


def test_a_host_that_never_answers_is_given_up_soon(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = cli("plan", CLEANUP_DATABASE_URL=f"postgresql://me@127.0.0.1:{port}/somewhere?connect_timeout=2")
    assert_could_not_begin(done, f"127.0.0.1:{port}/somewhere")


def test_a_database_without_the_tables_is_refused(cli: Cli, bare_database: str) -> None:
    done = cli("plan", "--json", CLEANUP_DATABASE_URL=bare_database)
    assert done.code == 3
    assert {rule["status"] for rule in done.rules.values()} == {"refused"}
    assert "public.after_hours_declines does not exist" in done.rules["old_declines"]["error"]


@pytest.mark.parametrize(
    ("home", "word"), [("relative/home", "absolute"), ("/no/such/home", "/no/such/home"), (__file__, "no directory")]
)
def test_a_home_that_can_not_be_one_is_told(cli: Cli, home: str, word: str) -> None:
    assert_could_not_begin(cli("run", "--json", DAGSTER_HOME=home), "DAGSTER_HOME", word)


@pytest.mark.parametrize(
    ("yaml", "url", "words"),
    [
        ("storage: {postgres: {postgres_url: {env: DAGSTER_POSTGRES_URL}}}", None, ["DAGSTER_POSTGRES_URL", "not set"]),
        ("storage: {postgres: {postgres_url: {env: DAGSTER_POSTGRES_URL}}}", "", ["DAGSTER_POSTGRES_URL", "not set"]),
        ("storage: {postgres: {postgres_url: {env: DAGSTER_POSTGRES_URL}}}", "nonsense", ["DAGSTER_POSTGRES_URL"]),
        ("storage: {postgres: {postgres_url: 'postgresql://me:secret@127.0.0.1:1/d'}}", None, ["127.0.0.1:1/d"]),
        (
            "storage: {postgres: {postgres_db:"
            " {hostname: 127.0.0.1, port: 1, username: u, password: secret, db_name: d}}}",
            None,
            ["127.0.0.1:1/d"],
        ),
        ("storage: {nonsense: 1}", None, ["dagster.yaml"]),
        ("storage: [", None, ["dagster.yaml"]),
    ],
)
def test_a_storage_that_can_not_be_used_is_told(
    cli: Cli, tmp_path: Path, yaml: str, url: str | None, words: list[str]
) -> None:
    (tmp_path / "dagster.yaml").write_text(yaml)
    done = cli("run", "--json", DAGSTER_HOME=str(tmp_path), DAGSTER_POSTGRES_URL=url)
    assert_could_not_begin(done, "--no-record", *words)
    assert "secret" not in done.err
