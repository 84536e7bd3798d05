"""Least privilege, and no personal data in what is said."""

import json
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from psycopg import Connection, errors, sql

from cleanup_pipeline_tests.cli.conftest import ended, start
from cleanup_pipeline_tests.databases import everything_in, name_of
from cleanup_pipeline_tests.oracle import expected, snapshot

MARK = "Zq7canary"
PRIVATE = {
    "users": ("id", "provider", "email"),
    "after_hours_profiles": ("user_id", "photo_url", "description"),
    "after_hours_preferences": ("user_id", "seeking_gender"),
    "after_hours_sessions": ("user_id",),
    "after_hours_declines": ("user_id", "declined_user_id"),
    "after_hours_messages": ("text",),
    "device_fingerprints": ("user_id", "device_id", "device_model"),
}


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
    planted: Connection, database: str, cleaner: str
) -> None:
    planted.execute(
        sql.SQL("revoke temporary, connect on database {} from public").format(sql.Identifier(name_of(database)))
    )
    granting = ended(start(["grants", "--role", cleaner], {"CLEANUP_DATABASE_URL": database}))
    assert granting.code == 0
    planted.execute(granting.out.encode())
    want = expected(planted, planted.execute("select now()").fetchall()[0][0])
    own = {"CLEANUP_DATABASE_URL": as_role(database, cleaner)}
    for command in (["doctor"], ["plan"], ["run", "--yes"]):
        assert ended(start(command, own)).code == 0
    assert snapshot(planted) == want
    with psycopg.connect(own["CLEANUP_DATABASE_URL"], autocommit=True) as connection:
        for query in (
            "select id from after_hours_matches",
            "select text from after_hours_messages",
            "select latitude from after_hours_sessions",
            "select fuzzed_longitude from after_hours_sessions",
            "select photo_url from after_hours_profiles",
            "select device_id from device_fingerprints",
            "select email from users",
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


def test_no_personal_data_is_in_anything_that_is_said_or_stored(
    planted: Connection, database: str, dagster_home: Path
) -> None:
    planted.execute("set session_replication_role = replica")
    for table, columns in PRIVATE.items():
        for column in columns:
            planted.execute(
                sql.SQL("update {0} set {1} = left({1} || {2}, 250)").format(
                    sql.Identifier(table), sql.Identifier(column), sql.Literal(MARK)
                )
            )
    planted.execute("set session_replication_role = origin")
    storage = json.loads((dagster_home / "dagster.yaml").read_text())["storage"]["postgres"]["postgres_url"]
    variables = {"CLEANUP_DATABASE_URL": database, "DAGSTER_HOME": str(dagster_home)}

    said = [ended(start(["plan", "--json"], variables)), ended(start(["run", "--rule", "expired_sessions"], variables))]
    # A row that can't be changed, by a trigger that says whose it is; and one that a constraint quotes whole.
    planted.execute(
        """
        create function tell() returns trigger language plpgsql as
        $$ begin raise exception 'user % may not go', old.user_id using detail = old.photo_url; end $$;
        create trigger tell before delete on after_hours_profiles for each row
        when (old.user_id like 'nobody-%') execute function tell();
        alter table after_hours_sessions add check (ended_at is null or expires_at > '2000-01-01') not valid;
        create table reports (decline_id uuid references after_hours_declines);
        insert into reports select id from after_hours_declines where created_at < now() - interval '8 days' limit 2;
        create table copies (user_id varchar(255) references after_hours_preferences on delete cascade);
        """
    )
    said.append(ended(start(["run", "--yes", "--json", "--reason", "a canary"], variables), 120))
    statuses = {name: rule["status"] for name, rule in said[-1].rules.items()}
    assert statuses == {
        "expired_sessions": "success",
        "old_declines": "failed",
        "orphaned_fingerprints": "success",
        "orphaned_profiles": "failed",
        "orphaned_preferences": "refused",
    }
    said += [ended(start([command, "--json"], variables)) for command in ("doctor", "status")]
    for answer in said:
        assert MARK not in answer.out + answer.err
    assert "orphaned_profiles" in everything_in(storage)
    assert MARK not in everything_in(storage)
