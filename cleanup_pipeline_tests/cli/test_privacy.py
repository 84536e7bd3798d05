"""Least privilege, and no personal data in what is said."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote, quote_plus
from uuid import uuid4

import psycopg
import pytest
from psycopg import Connection, errors, sql

from cleanup_pipeline_tests.cli.conftest import Ended, ended, start
from cleanup_pipeline_tests.databases import everything_in, name_of
from cleanup_pipeline_tests.oracle import expected, snapshot

Cli = Callable[..., Ended]

MARK = "Zq7canary"
# Every column in which something personal may stand as text; ids, keys and coordinates are looked for by themselves.
PRIVATE = {
    "users": ("id", "provider", "email"),
    "after_hours_profiles": ("user_id", "photo_url", "description", "photo_hash"),
    "after_hours_preferences": ("user_id", "seeking_gender"),
    "after_hours_sessions": ("user_id",),
    "after_hours_declines": ("user_id", "declined_user_id"),
    "after_hours_matches": ("user_id_1", "user_id_2", "declined_by"),
    "after_hours_messages": ("sender_id", "text"),
    "device_fingerprints": ("user_id", "device_id", "device_model", "platform"),
}
KEYED_BY_UUID = ("after_hours_sessions", "after_hours_declines", "after_hours_matches", "device_fingerprints")
COORDINATES = ("12.3456781", "12.3456782", "12.3456783", "12.3456784")
UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@pytest.fixture
def cleaner(planted: Connection) -> Iterator[str]:
    """The name of a role that may log in and nothing else."""
    role = f"cleaner {uuid4().hex[:8]}"
    planted.execute(sql.SQL("create role {} login").format(sql.Identifier(role)))
    yield role
    planted.execute(sql.SQL("drop owned by {0}; drop role {0}").format(sql.Identifier(role)))


def as_role(url: str, role: str) -> str:
    return url.replace("://postgres@", f"://{role.replace(' ', '%20')}@", 1)


def test_a_role_with_exactly_the_grants_that_are_printed_does_everything_and_sees_nothing_private(
    cli: Cli, planted: Connection, database: str, cleaner: str
) -> None:
    planted.execute(
        sql.SQL(
            "revoke temporary, connect on database {0} from public; revoke all on schema public from public"
        ).format(sql.Identifier(name_of(database)))
    )
    granting = cli("grants", "--role", cleaner)
    assert granting.code == 0
    planted.execute(granting.out.encode())
    now = planted.execute("select now()").fetchall()[0][0]
    want = expected(planted, now)
    own = {"CLEANUP_DATABASE_URL": as_role(database, cleaner)}
    for command in ("doctor", "plan", "plan --deep", "run --dry-run", "run --full-speed --deep", "run", "status"):
        done = cli(*command.split(), "--json", **own)
        assert done.code == 0, done
        assert not {rule.get("error") for rule in done.rules.values()} - {None}
    assert snapshot(planted) == want
    with psycopg.connect(own["CLEANUP_DATABASE_URL"], autocommit=True) as connection:
        for query in (
            "select from after_hours_matches",
            "select id from after_hours_matches",
            "select from after_hours_messages",
            "select text from after_hours_messages",
            "select latitude from after_hours_sessions",
            "select longitude from after_hours_sessions",
            "select fuzzed_latitude from after_hours_sessions",
            "select fuzzed_longitude from after_hours_sessions",
            "select user_id from after_hours_sessions",
            "select declined_user_id from after_hours_declines",
            "select photo_url from after_hours_profiles",
            "select device_id from device_fingerprints",
            "select email from users",
            "update after_hours_sessions set expires_at = now()",
            "delete from after_hours_sessions",
            "delete from after_hours_matches",
            "delete from users",
            "truncate after_hours_declines",
        ):
            with pytest.raises(errors.InsufficientPrivilege):
                connection.execute(query.encode())


def test_without_one_of_the_grants_the_rule_is_refused_with_the_grant_to_run(
    planted: Connection, database: str, cleaner: str
) -> None:
    planted.execute(ended(start(["grants", "--role", cleaner], {"CLEANUP_DATABASE_URL": database})).out.encode())
    planted.execute(sql.SQL("revoke delete on after_hours_declines from {}").format(sql.Identifier(cleaner)))
    refused = ended(
        start(["run", "--rule", "old_declines", "--json"], {"CLEANUP_DATABASE_URL": as_role(database, cleaner)})
    )
    assert refused.code == 3
    assert f'grant delete on public.after_hours_declines to "{cleaner}";' in refused.err


def mark_everybody(app: Connection) -> set[str]:
    """Put a mark into every personal column; returns the ids of all rows that have one."""
    app.execute("set session_replication_role = replica")
    for table, columns in PRIVATE.items():
        for column in columns:
            # In front, where nothing cuts it off; behind it what makes a key unique.
            app.execute(
                sql.SQL("update {0} set {1} = left({2} || {1}, {3}) where {1} is not null").format(
                    sql.Identifier(table),
                    sql.Identifier(column),
                    sql.Literal(MARK),
                    sql.Literal(
                        {"photo_hash": 16, "provider": 32, "platform": 32, "seeking_gender": 32}.get(column, 250)
                    ),
                )
            )
    app.execute("update after_hours_preferences set interests = array[%s]", [MARK])
    app.execute(
        "update after_hours_sessions"
        " set (latitude, longitude, fuzzed_latitude, fuzzed_longitude) = (%s, %s, %s, %s)".replace("%s", "{}").format(
            *COORDINATES
        )
    )
    app.execute("set session_replication_role = origin")
    return {
        str(identity)
        for table in KEYED_BY_UUID
        for (identity,) in app.execute(sql.SQL("select id from {}").format(sql.Identifier(table)))
    }


def assert_nobody_in(text: str, ids: set[str]) -> None:
    for private in (MARK, *COORDINATES):
        assert private not in text
    assert not ids & set(UUID.findall(text))


# Rows that can't be changed: by triggers that quote them, by a constraint, by other tables; one rule that is refused.
POISON = f"""
    create function tell() returns trigger language plpgsql as
    $$ begin raise exception 'user % may not go', old.user_id using detail = old.photo_url, hint = old::text; end $$;
    create trigger tell before delete on after_hours_profiles for each row
    when (old.user_id like '{MARK}nobody-0%') execute function tell();
    create function cast_it() returns trigger language plpgsql as
    $$ begin raise warning 'the device %', old; perform old.device_id::uuid; return old; end $$;
    create trigger cast_it before delete on device_fingerprints for each row
    when (old.id < '02000000-0000-0000-0000-000000000000') execute function cast_it();
    alter table after_hours_sessions
    add constraint too_old check (ended_at is null or ended_at > now() - interval '29.8 days') not valid;
    create table reports (decline_id uuid references after_hours_declines);
    insert into reports select id from after_hours_declines where created_at < now() - interval '8 days' limit 2;
    create table copies (user_id varchar(255) references after_hours_preferences on delete cascade);
"""


def test_no_personal_data_is_in_anything_that_is_said_or_stored(
    cli: Cli, planted: Connection, database: str, dagster_home: Path
) -> None:
    ids = mark_everybody(planted)
    storage = json.loads((dagster_home / "dagster.yaml").read_text())["storage"]["postgres"]["postgres_url"]
    variables = {"CLEANUP_DATABASE_URL": database, "DAGSTER_HOME": str(dagster_home), "PYTHONWARNINGS": "default"}

    def say(*arguments: str) -> Ended:
        # As a process of its own only where Dagster's own output is to be seen.
        alone = arguments[0] == "run"
        done = ended(start(arguments, variables)) if alone else cli(*arguments, **variables)
        assert_nobody_in(done.out + done.err, ids)
        return done

    # Success; and a fuse that blows.
    assert say("run", "--rule", "expired_sessions", "--max-rows", "100").code == 0
    planted.execute("update device_fingerprints set session_id = gen_random_uuid() where session_id is not null")
    assert say("plan", "--json").code == 3
    blown = say("run", "--rule", "orphaned_fingerprints", "--json")
    assert (blown.code, "made or last changed between" in blown.err) == (3, True)

    planted.execute(POISON)
    ended_badly = {
        "expired_sessions": "failed",
        "old_declines": "failed",
        "orphaned_fingerprints": "failed",
        "orphaned_profiles": "failed",
        "orphaned_preferences": "refused",
    }
    all_of_it = ("run", "--yes", "--full-speed", "--allow-share", "1", "--reason", "a canary")
    done = say(*all_of_it, "--json")
    assert {name: rule["status"] for name, rule in done.rules.items()} == ended_badly
    assert say(*all_of_it).code == 1
    for command in ("plan", "doctor", "status"):
        say(command)
        say(command, "--json")

    # The storage has configuration, tags, events, metadata and, packed, the snapshots; the home has the steps' logs.
    stored = everything_in(storage) + everything_under(dagster_home)
    assert "orphaned_profiles" in stored
    assert "PipelineSnapshot" in stored
    assert_nobody_in(stored, ids)


def everything_under(folder: Path) -> str:
    return "\n".join(path.read_text(errors="replace") for path in sorted(folder.rglob("*")) if path.is_file())


PASSWORD = "p@ss:w/o%rd of öurs"


def with_password(url: str) -> str:
    return url.replace("://postgres@", f"://postgres:{quote(PASSWORD, safe='')}@", 1)


def assert_no_password_in(text: str) -> None:
    for written in (PASSWORD, quote(PASSWORD, safe=""), quote(PASSWORD), quote_plus(PASSWORD), "w/o%rd", "w%2Fo%25rd"):
        assert written not in text


def command_lines() -> str:
    """Of every process that there is, as `ps` shows them."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return "\n".join(lines)


def test_no_password_is_told_recorded_or_shown_by_ps(planted: Connection, database: str, dagster_home: Path) -> None:
    storage = json.loads((dagster_home / "dagster.yaml").read_text())["storage"]["postgres"]["postgres_url"]
    (dagster_home / "dagster.yaml").write_text("storage: {postgres: {postgres_url: {env: DAGSTER_POSTGRES_URL}}}")
    planted.execute("create table reports (decline_id uuid references after_hours_declines)")
    planted.execute("insert into reports select id from after_hours_declines order by created_at limit 1")
    variables = {
        "CLEANUP_DATABASE_URL": with_password(database),
        "DAGSTER_POSTGRES_URL": with_password(storage),
        "DAGSTER_HOME": str(dagster_home),
        "PYTHONWARNINGS": "default",
    }
    nowhere = f"postgresql://me:{quote(PASSWORD, safe='')}@127.0.0.1:1/nowhere"
    cases = [
        (["doctor", "--json"], {}, 0),
        (["run", "--rule", "expired_sessions", "--reason", "see", "--json"], {}, 0),
        (["run", "--rule", "old_declines", "--full-speed"], {}, 1),
        (["run"], {"CLEANUP_DATABASE_URL": nowhere}, 2),
        (["run", "--json"], {"DAGSTER_POSTGRES_URL": nowhere}, 2),
        (["plan"], {"CLEANUP_DATABASE_URL": f"postgresql://me:{PASSWORD}@127.0.0.1:1/nowhere"}, 2),
        (["status"], {"MESSAGE_CLEANUP_REDIS_URL": f"redis://:{quote(PASSWORD, safe='')}@127.0.0.1:1/0"}, 0),
    ]
    for arguments, instead, code in cases:
        process = start(arguments, variables | instead)
        seen = command_lines()
        done = ended(process)
        assert done.code == code, done
        assert_no_password_in(done.out + done.err + seen)
    assert_no_password_in(everything_in(storage) + everything_under(dagster_home))
