"""Databases as nobody wants them: what each does to `doctor`, `plan` and `run`, with every table as it should be.

A case is a database made unfit by SQL. Rules that it names end as it says and leave their tables as they were, but for
what was done before; all other rules do their work, and no other table changes.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import psycopg
import pytest
from psycopg import Connection, sql

from cleanup_pipeline.cli.errors import CODES
from cleanup_pipeline.cli.execution import Observed
from cleanup_pipeline.demo.data import plant
from cleanup_pipeline.rules import RULES, Close
from cleanup_pipeline.sweep.result import Progress, Status, worst
from cleanup_pipeline.sweep.work import MOST_PASSES
from cleanup_pipeline_tests.cli.conftest import Ended
from cleanup_pipeline_tests.databases import fresh_database, name_of
from cleanup_pipeline_tests.oracle import Tables, expected, whole_database

Cli = Callable[..., Ended]
App = Connection[Any]

SESSIONS, DECLINES, FINGERPRINTS, PROFILES, PREFERENCES = (rule.name for rule in RULES)
EVERY_RULE = tuple(rule.name for rule in RULES)
REFUSED, FAILED = Status.REFUSED, Status.FAILED


@dataclass(frozen=True)
class Case:
    """A database made unfit by `made`, in which DATABASE and ROLE stand for the names of both.

    `ends` are the rules that do not succeed, `told` the words with which they say why, and `left` how many of their
    rows are due and stay; `again` bounds how often rows were cleaned that came back. `doctor` are words that
    doctor says beforehand; where it can't see a refusal, it is `found` by the plan, or only in the run. `role` logs in
    instead of the owner: "granted" has what `grants` prints, "bare" nothing. `meanwhile` is what somebody does after a
    rule's first step of a stage; it may change the tables `changed_by_others`.
    """

    name: str
    made: str
    ends: Mapping[str, Status] = field(default_factory=dict)
    told: tuple[str, ...] = ()
    left: Mapping[str, int] = field(default_factory=dict)
    again: int = 0
    doctor: tuple[str, ...] = ()
    found: str = "doctor"
    role: str | None = None
    url: Callable[[str], str] = str
    meanwhile: tuple[str, str, str] | None = None
    changed_by_others: frozenset[str] = frozenset()

    @property
    def rules(self) -> tuple[str, ...]:
        """The rules that are carried out: those that do not succeed and one more, which does its work all the same."""
        others = [name for name in EVERY_RULE if name not in self.ends]
        return EVERY_RULE if self.meanwhile or not self.ends else (*self.ends, *others[-1:])

    @property
    def code(self) -> int:
        """What `run` exits with."""
        return CODES[worst([Status.SUCCESS, *self.ends.values()])]

    def code_of(self, command: str) -> int:
        """What a command that only looks exits with."""
        finds = {"doctor": ("doctor",), "plan": ("doctor", "plan")}[command]
        return 3 if REFUSED in self.ends.values() and self.found in finds else 0


def refused(*rules: str) -> dict[str, Status]:
    return dict.fromkeys(rules, REFUSED)


def failed(*rules: str) -> dict[str, Status]:
    return dict.fromkeys(rules, FAILED)


RENAME = "alter table after_hours_{0} rename to {0}; "
DROP_KEYS_TO_SESSIONS = """
    alter table after_hours_declines drop constraint after_hours_declines_session_id_fkey;
    alter table after_hours_matches drop constraint after_hours_matches_session_id_fkey;
"""
DROP_KEYS_TO_USERS = """
    alter table after_hours_sessions drop constraint after_hours_sessions_user_id_fkey;
    alter table after_hours_declines drop constraint after_hours_declines_user_id_fkey;
    alter table after_hours_declines drop constraint after_hours_declines_declined_user_id_fkey;
    alter table after_hours_matches drop constraint after_hours_matches_declined_by_fkey;
    alter table device_fingerprints drop constraint device_fingerprints_user_id_fkey;
"""
REASONS = "create table reasons (decline_id uuid constraint because references after_hours_declines on delete {}); "
REFER_TO_FIVE = """
    create table reports (decline_id uuid references after_hours_declines {});
    insert into reports
    select id from after_hours_declines where created_at < now() - interval '8 days' order by id limit 5;
"""
TRIGGER_ON_DECLINES = """
    create function watch() returns trigger language plpgsql as $$ begin {} return old; end $$;
    create trigger watch {} delete on after_hours_declines for each row
    when (old.id in ({})) execute function watch();
"""


def orphans(number: int, of: int) -> str:
    """Fingerprints anew, so many of them orphans."""
    return f"""
        truncate device_fingerprints;
        insert into device_fingerprints (user_id, session_id, device_id, created_at)
        select u.id, case when i <= {number} then gen_random_uuid() else s.id end, 'device', now() - interval '1 day'
        from generate_series(1, {of}) i, (select id from users limit 1) u,
            (select id from after_hours_sessions limit 1) s;
    """


# Three declines that are due, by the keys that `plant` gives.
THREE = ", ".join(f"md5('decline {number}')::uuid" for number in (1, 3, 5))


def trigger_on_three_declines(body: str, when: str = "before") -> str:
    """A trigger on three of the due declines; a trigger's condition can't hold a sub-select, hence the literal keys."""
    return TRIGGER_ON_DECLINES.format(body, when, THREE)


CASES = [
    # --- Tables and columns that are not what they should be.
    Case(
        "a view in place of a table",
        RENAME.format("declines") + "create view after_hours_declines as table declines",
        refused(DECLINES),
        ("public.after_hours_declines is a view", "a table was expected"),
    ),
    Case(
        "a materialized view in place of a table",
        RENAME.format("declines") + "create materialized view after_hours_declines as table declines",
        refused(DECLINES),
        ("public.after_hours_declines is a materialized view",),
    ),
    Case(
        "a foreign table in place of a table",
        RENAME.format("declines")
        + """
        create extension file_fdw;
        create server files foreign data wrapper file_fdw;
        create foreign table after_hours_declines (id uuid, created_at timestamptz) server files
        options (program 'true');
        """,
        refused(DECLINES),
        ("public.after_hours_declines is a foreign table",),
    ),
    Case(
        "a partition that is a foreign table",
        RENAME.format("declines")
        + """
        create extension file_fdw;
        create server files foreign data wrapper file_fdw;
        create table after_hours_declines (like declines) partition by range (created_at);
        create table recent partition of after_hours_declines for values from ('2026-01-01') to (maxvalue);
        create foreign table far partition of after_hours_declines for values from (minvalue) to ('2026-01-01')
        server files options (program 'true');
        insert into recent select * from declines;
        """,
        refused(DECLINES),
        ("far", "is a foreign table"),
    ),
    Case(
        "a sequence in place of a table",
        RENAME.format("declines") + "create sequence after_hours_declines",
        refused(DECLINES),
        ("public.after_hours_declines is a sequence",),
    ),
    Case(
        "a table from which others inherit",
        "create table archive () inherits (after_hours_declines);"
        "insert into archive select * from only after_hours_declines",
        refused(DECLINES),
        ("public.after_hours_declines", "inherit"),
    ),
    Case(
        "a table that is missing",
        "drop table after_hours_declines",
        refused(DECLINES),
        ("public.after_hours_declines does not exist", "Check the database in the URL"),
    ),
    Case(
        "a table that moved to another schema",
        "create schema other; alter table after_hours_declines set schema other",
        refused(DECLINES),
        ("public.after_hours_declines does not exist",),
    ),
    Case(
        "a parent that is missing",
        "alter table users rename to people",
        refused(PROFILES, PREFERENCES),
        ("public.users does not exist",),
    ),
    Case(
        "a parent that is a view of some of its rows",
        RENAME.format("sessions") + "create view after_hours_sessions as select * from sessions where ended_at is null",
        refused(SESSIONS, FINGERPRINTS),
        ("public.after_hours_sessions is a view",),
    ),
    Case(
        "an age column that is missing",
        "alter table after_hours_declines drop column created_at",
        refused(DECLINES),
        ("public.after_hours_declines has no column created_at", "timestamp with time zone was expected"),
    ),
    Case(
        "a column to close by that is missing",
        "alter table after_hours_sessions drop column ended_at cascade",
        refused(SESSIONS),
        ("public.after_hours_sessions has no column ended_at",),
    ),
    Case(
        "a reference that is missing",
        "alter table device_fingerprints drop column session_id",
        refused(FINGERPRINTS),
        ("public.device_fingerprints has no column session_id",),
    ),
    Case(
        "a key that has another name",
        "alter table users rename id to identity",
        refused(PROFILES, PREFERENCES),
        ("public.users has no column id",),
    ),
    Case(
        "an age without a time zone",
        "alter table after_hours_declines alter created_at type timestamp",
        refused(DECLINES),
        ("created_at is timestamp without time zone", "timestamp with time zone was expected"),
    ),
    Case(
        "an age that is text",
        "alter table after_hours_declines alter created_at drop default, alter created_at type text",
        refused(DECLINES),
        ("public.after_hours_declines.created_at is text",),
    ),
    Case(
        "an age in seconds since 1970",
        "alter table after_hours_declines alter created_at drop default,"
        "alter created_at type bigint using extract(epoch from created_at)",
        refused(DECLINES),
        ("public.after_hours_declines.created_at is bigint",),
    ),
    Case(
        "an expiry without a time zone",
        "alter table after_hours_sessions alter expires_at type timestamp",
        refused(SESSIONS),
        ("public.after_hours_sessions.expires_at is timestamp without time zone",),
    ),
    Case(
        "an end that is a date",
        "alter table after_hours_sessions alter ended_at type date",
        refused(SESSIONS),
        ("public.after_hours_sessions.ended_at is date",),
    ),
    Case(
        "an age of a domain that has an operator of its own, by which everything is old",
        """
        create domain instant as timestamptz;
        create function older(instant, timestamptz) returns bool language sql as 'select true';
        create operator public.< (leftarg = instant, rightarg = timestamptz, function = older);
        alter table after_hours_declines alter created_at type instant;
        """,
        refused(DECLINES),
        ("public.after_hours_declines.created_at is of a domain over timestamp with time zone",),
    ),
    Case(
        "a time of change without a time zone",
        "alter table after_hours_profiles alter updated_at type timestamp",
        refused(PROFILES),
        ("public.after_hours_profiles.updated_at is timestamp without time zone",),
    ),
    Case(
        "C05: a reference that is text, with values that are no uuid, to a key that is uuid",
        """
        alter table device_fingerprints alter session_id type varchar(64);
        update device_fingerprints set session_id = 'no uuid'
        where id in (select id from device_fingerprints order by id limit 2);
        """,
        refused(FINGERPRINTS),
        ("device_fingerprints.session_id is character varying", "after_hours_sessions.id", "is uuid"),
    ),
    Case(
        "a reference of text to a key of varchar",
        "alter table after_hours_profiles alter user_id type text",
        refused(PROFILES),
        ("after_hours_profiles.user_id is text", "users.id", "is character varying"),
    ),
    Case(
        "a reference of another collation than its key",
        'alter table after_hours_profiles alter user_id type varchar(255) collate "POSIX"',
        refused(PROFILES),
        ("after_hours_profiles.user_id and public.users.id", "different collations"),
    ),
    Case(
        "a reference of a type that is not built in",
        "create extension citext; alter table device_fingerprints alter session_id type citext;"
        + DROP_KEYS_TO_SESSIONS
        + "alter table after_hours_sessions alter id drop default, alter id type citext",
        refused(FINGERPRINTS),
        ("device_fingerprints.session_id is of type public.citext", "equality"),
    ),
    # --- Roles that may not, or may only read.
    Case(
        "a role without delete",
        "revoke delete on after_hours_declines from ROLE",
        refused(DECLINES),
        ("lacks DELETE on public.after_hours_declines", "grant delete on public.after_hours_declines to"),
        role="granted",
    ),
    Case(
        "a role that may not read a row's address",
        "revoke select (ctid) on after_hours_declines from ROLE",
        refused(DECLINES),
        ("lacks SELECT (ctid)", "grant select (ctid) on public.after_hours_declines to"),
        role="granted",
    ),
    Case(
        "a role that may delete a row and not lock it",
        "revoke update (created_at) on after_hours_declines from ROLE",
        refused(DECLINES),
        ("lacks UPDATE", "grant update (created_at) on public.after_hours_declines to"),
        role="granted",
    ),
    Case(
        "a role that may not set what it closes",
        "revoke update (ended_at) on after_hours_sessions from ROLE",
        refused(SESSIONS),
        ("grant update (ended_at) on public.after_hours_sessions to",),
        role="granted",
    ),
    Case(
        "a role that may not read the parent's key",
        "revoke select (id) on users from ROLE",
        refused(PROFILES, PREFERENCES),
        ("grant select (id) on public.users to",),
        role="granted",
    ),
    Case(
        "a role that may make no temporary tables",
        "revoke temporary on database DATABASE from public, ROLE",
        refused(*EVERY_RULE),
        ("may not make temporary tables", "grant connect, temporary on database"),
        role="granted",
    ),
    Case(
        "a role that may not use the schema",
        "revoke usage on schema public from public, ROLE",
        refused(*EVERY_RULE),
        ("may not use the schema public", "grant usage on schema public to"),
        role="granted",
    ),
    Case(
        "a role that may nothing",
        "",
        refused(*EVERY_RULE),
        ("SELECT (ctid", "grant select"),
        role="bare",
    ),
    Case(
        "a role that is read-only",
        "alter role ROLE set default_transaction_read_only = on",
        refused(*EVERY_RULE),
        ("read-only", "Use a role that may write"),
        role="granted",
    ),
    Case(
        "a database that is read-only",
        "alter database DATABASE set default_transaction_read_only = on",
        refused(*EVERY_RULE),
        ("read-only",),
    ),
    Case(
        "a URL that makes it read-only",
        "",
        refused(*EVERY_RULE),
        ("read-only",),
        url=lambda url: f"{url}&options=-c%20default_transaction_read_only%3Don",
    ),
    Case(
        "a database in which triggers don't fire",
        "alter database DATABASE set session_replication_role = replica",
        refused(*EVERY_RULE),
        ("session_replication_role is replica",),
    ),
    # --- Rows that are hidden.
    Case(
        "rows hidden by a policy for deletes alone",
        "alter table device_fingerprints enable row level security;"
        "create policy all_rows on device_fingerprints for select using (true);"
        "create policy few on device_fingerprints for delete using (platform = 'ios')",
        refused(FINGERPRINTS),
        ("Row-level security on public.device_fingerprints",),
        role="granted",
    ),
    Case(
        "a parent's rows hidden by a policy for reads",
        "alter table after_hours_sessions enable row level security;"
        "create policy few on after_hours_sessions for select using (ended_at is null)",
        refused(SESSIONS, FINGERPRINTS),
        ("Row-level security on public.after_hours_sessions", "may hide rows from this role"),
        role="granted",
    ),
    Case(
        "a parent's rows hidden, since there is no policy",
        "alter table users enable row level security",
        refused(PROFILES, PREFERENCES),
        ("Row-level security on public.users",),
        role="granted",
    ),
    Case(
        "rows hidden from their owner, by force",
        "alter table after_hours_declines owner to ROLE;"
        "alter table after_hours_declines enable row level security, force row level security",
        refused(DECLINES),
        ("Row-level security on public.after_hours_declines", "BYPASSRLS"),
        role="granted",
    ),
    Case(
        "rows of an owner, who is not forced",
        "alter table after_hours_declines owner to ROLE; alter table after_hours_declines enable row level security",
        role="granted",
    ),
    # --- Writes that would do more than they say.
    Case(
        "a cascade into another schema",
        """
        create schema safety;
        create table safety."odd ""name" (id uuid constraint because references after_hours_declines on delete cascade);
        insert into safety."odd ""name" select id from after_hours_declines;
        """,
        refused(DECLINES),
        ('safety."odd ""name"', "because, on delete cascade", "may_touch"),
    ),
    Case(
        "a cascade to matches and messages",
        "alter table after_hours_matches add decline_id uuid references after_hours_declines on delete cascade;"
        "update after_hours_matches set decline_id = (select id from after_hours_declines order by created_at limit 1)",
        refused(DECLINES),
        ("would reach public.after_hours_matches", "public.after_hours_declines ← public.after_hours_matches"),
        doctor=("after_hours_messages", "← public.after_hours_messages (after_hours_messages_match_id_fkey"),
    ),
    Case(
        "a foreign key that sets null",
        REASONS.format("set null") + "insert into reasons select id from after_hours_declines",
        refused(DECLINES),
        ("reasons (because, on delete set null)",),
    ),
    Case(
        "a foreign key that sets a default",
        REASONS.format("set default") + "insert into reasons select id from after_hours_declines",
        refused(DECLINES),
        ("reasons (because, on delete set default)",),
    ),
    Case(
        "a cascade to the table itself",
        "alter table after_hours_declines add earlier uuid"
        " constraint chain references after_hours_declines on delete cascade;"
        "update after_hours_declines set earlier = md5('decline 1')::uuid",
        refused(DECLINES),
        ("after_hours_declines (chain, on delete cascade)",),
    ),
    Case(
        "cascades in a circle",
        """
        create table reasons (
            id uuid primary key, decline_id uuid constraint because references after_hours_declines on delete cascade
        );
        alter table after_hours_declines add reason_id uuid constraint why references reasons on delete cascade;
        """,
        refused(DECLINES),
        ("reasons (because, on delete cascade)",),
        doctor=("after_hours_declines (why, on delete cascade)",),
    ),
    Case(
        "a cascade into partitions",
        """
        create table reasons (decline_id uuid constraint because references after_hours_declines on delete cascade)
        partition by hash (decline_id);
        create table reasons_0 partition of reasons for values with (modulus 1, remainder 0);
        insert into reasons select id from after_hours_declines;
        """,
        refused(DECLINES),
        ("reasons", "on delete cascade"),
    ),
    Case(
        "a foreign key that follows the end of a session",
        """
        alter table after_hours_sessions add unique (id, ended_at);
        create table endings (session_id uuid, ended_at timestamptz, constraint because foreign key
        (session_id, ended_at) references after_hours_sessions (id, ended_at) on update cascade);
        """,
        refused(SESSIONS),
        ("endings (because, on update cascade)",),
    ),
    Case(
        "a rewrite rule that does nothing instead",
        "create rule keep as on delete to after_hours_declines do instead nothing",
        refused(DECLINES),
        ("rewrite rule keep on public.after_hours_declines",),
    ),
    Case(
        "a rewrite rule that does more",
        "create rule more as on delete to after_hours_declines do also delete from after_hours_messages",
        refused(DECLINES),
        ("rewrite rule more on public.after_hours_declines",),
    ),
    Case(
        "a rewrite rule on what closes a session",
        "create rule keep as on update to after_hours_sessions do instead nothing",
        refused(SESSIONS),
        ("rewrite rule keep on public.after_hours_sessions",),
    ),
    # --- Writes that would do less.
    Case(
        "C04: a foreign key without an action that points at five due rows",
        REFER_TO_FIVE.format(""),
        failed(DECLINES),
        ("reports_decline_id_fkey",),
        left={DECLINES: 5},
        doctor=("reports (reports_decline_id_fkey, on delete no action) refers to public.after_hours_declines",),
    ),
    Case(
        "a foreign key that restricts",
        REFER_TO_FIVE.format("on delete restrict"),
        failed(DECLINES),
        ("reports_decline_id_fkey",),
        left={DECLINES: 5},
        doctor=("reports (reports_decline_id_fkey, on delete restrict)",),
    ),
    Case(
        "a foreign key that is checked at the commit",
        REFER_TO_FIVE.format("deferrable initially deferred"),
        failed(DECLINES),
        ("reports_decline_id_fkey",),
        left={DECLINES: 5},
        doctor=("reports_decline_id_fkey", "checked at commit"),
    ),
    Case(
        "a table published without an identity",
        """
        alter table after_hours_declines drop constraint after_hours_declines_pkey;
        create publication everything for table after_hours_declines;
        """,
        refused(DECLINES),
        ("after_hours_declines is published by everything without a replica identity", "replica identity full"),
    ),
    Case(
        "a published table whose identity was taken away",
        "alter table after_hours_sessions replica identity nothing; create publication everything for all tables",
        refused(SESSIONS),
        ("after_hours_sessions is published by everything without a replica identity",),
    ),
    Case(
        "a published table without an identity, of which only inserts are",
        """
        alter table after_hours_declines drop constraint after_hours_declines_pkey;
        create publication news for table after_hours_declines with (publish = 'insert');
        """,
    ),
    Case(
        "a trigger that silently keeps rows",
        trigger_on_three_declines("return null;"),
        failed(DECLINES),
        ("watch",),
        left={DECLINES: 3},
        doctor=("The trigger watch on public.after_hours_declines may keep rows",),
    ),
    Case(
        "a trigger that raises, quoting the row",
        trigger_on_three_declines("raise exception 'not %', old;", "after"),
        failed(DECLINES),
        ("watch",),
        left={DECLINES: 3},
        doctor=("The trigger watch on public.after_hours_declines fires",),
    ),
    Case(
        "a trigger that inserts the row again",
        trigger_on_three_declines("insert into public.after_hours_declines select (old).*;", "after"),
        failed(DECLINES),
        ("watch",),
        left={DECLINES: 3},
        again=MOST_PASSES * 2 * 3,
    ),
    Case(
        "a trigger that opens the session again",
        """
        create function open() returns trigger language plpgsql as $$ begin new.ended_at := null; return new; end $$;
        create trigger open before update on after_hours_sessions for each row
        when (old.id in (md5('session 1')::uuid, md5('session 3')::uuid)) execute function open();
        """,
        failed(SESSIONS),
        ("open",),
        left={SESSIONS: 2},
        again=MOST_PASSES * 2 * 2,
    ),
    Case(
        "a constraint, not validated, that one row violates",
        "alter table after_hours_sessions add constraint whose check (id <> md5('session 1')::uuid) not valid",
        failed(SESSIONS),
        ("constraint whose", "public.after_hours_sessions"),
        left={SESSIONS: 1},
    ),
    Case(
        "a constraint that no row may break",
        "alter table after_hours_sessions add constraint never check (ended_at is distinct from expires_at) not valid",
        failed(SESSIONS),
        ("constraint never",),
        left={SESSIONS: 20},
    ),
    # --- Parents that look damaged, and the fuse.
    Case(
        "a parent that is empty",
        DROP_KEYS_TO_SESSIONS + "truncate after_hours_sessions",
        refused(FINGERPRINTS),
        ("public.after_hours_sessions is empty", "restored completely"),
    ),
    Case(
        "a parent of two tables that is empty",
        DROP_KEYS_TO_USERS + "truncate users",
        refused(PROFILES, PREFERENCES),
        ("public.users is empty",),
    ),
    Case(
        "an empty parent that a foreign key guards",
        DROP_KEYS_TO_SESSIONS
        + """
        update device_fingerprints set session_id = null;
        alter table device_fingerprints add constraint guard foreign key (session_id) references after_hours_sessions
        on delete set null;
        delete from after_hours_sessions;
        """,
        doctor=("Guarded by guard",),
    ),
    Case("C06: orphans that are exactly a quarter", orphans(1000, of=4000)),
    Case("C06: orphans that are one row less than a quarter", orphans(999, of=4000)),
    Case(
        "C06: orphans that are one row more than a quarter",
        orphans(1001, of=4000),
        refused(FINGERPRINTS),
        ("1,001 of the 4,000 rows", "25%", "--allow-share"),
        found="plan",
    ),
    Case("a small table that is nearly all orphans", orphans(998, of=999)),
    Case(
        "a table that is just not small and nearly all orphans",
        orphans(999, of=1000),
        refused(FINGERPRINTS),
        ("999 of the 1,000 rows",),
        found="plan",
    ),
    # --- Rows that are odd.
    Case(
        "C20: times at both ends and before Christ",
        """
        insert into after_hours_declines (session_id, user_id, declined_user_id, created_at)
        select md5('session 1')::uuid, 'user-' || md5('user ' || i), 'user-' || md5('user ' || i), moment
        from unnest(array['-infinity', '0044-03-15 12:00+00 BC', 'infinity', '294276-12-31 23:59:59+00']::timestamptz[])
        with ordinality as odd (moment, i);
        update after_hours_sessions set expires_at = '-infinity' where id = md5('session 1')::uuid;
        update after_hours_sessions set expires_at = '0044-03-15 BC' where id = md5('session 3')::uuid;
        update after_hours_sessions set expires_at = 'infinity' where id = md5('session 5')::uuid;
        update device_fingerprints set created_at = '-infinity' where id = md5('fingerprint 1')::uuid;
        update after_hours_profiles set created_at = '-infinity', updated_at = 'infinity'
        where user_id like 'nobody-%';
        """,
    ),
    Case(
        "rows without an age",
        """
        alter table after_hours_declines alter created_at drop not null;
        alter table device_fingerprints alter created_at drop not null;
        update after_hours_declines set created_at = null where id in (md5('decline 1')::uuid, md5('decline 2')::uuid);
        update device_fingerprints set created_at = null where id = md5('fingerprint 1')::uuid;
        """,
    ),
    Case(
        "duplicates without a key",
        """
        alter table after_hours_declines drop constraint after_hours_declines_pkey,
        drop constraint after_hours_declines_user_id_declined_user_id_key;
        insert into after_hours_declines select d.* from after_hours_declines d, generate_series(1, 3);
        alter table device_fingerprints drop constraint device_fingerprints_pkey;
        insert into device_fingerprints select f.* from device_fingerprints f, generate_series(1, 3);
        alter table after_hours_profiles drop constraint after_hours_profiles_pkey;
        insert into after_hours_profiles select p.* from after_hours_profiles p, generate_series(1, 3);
        """,
    ),
    Case(
        "a URL of several hosts, the first of which is dead",
        "",
        url=lambda url: url.replace("host=", "host=/no/such/folder,", 1),
    ),
    # --- What somebody does while it runs.
    Case(
        "a parent that is truncated between judging and writing",
        DROP_KEYS_TO_SESSIONS,
        # What was judged before is what goes.
        meanwhile=(FINGERPRINTS, "judging", "truncate after_hours_sessions"),
        changed_by_others=frozenset({"after_hours_sessions"}),
    ),
    Case(
        "a parent that is truncated before it is judged against",
        DROP_KEYS_TO_SESSIONS,
        refused(FINGERPRINTS),
        ("public.after_hours_sessions is empty",),
        found="run",
        meanwhile=(DECLINES, "windows", "truncate after_hours_sessions"),
        changed_by_others=frozenset({"after_hours_sessions"}),
    ),
    Case(
        "a constraint that is added between judging and writing",
        "",
        failed(FINGERPRINTS),
        ("rows of another table refer to it", "table public.copies, constraint fingerprints_of_orphans"),
        left={FINGERPRINTS: 8},
        meanwhile=(
            FINGERPRINTS,
            "judging",
            "create table copies (id uuid constraint fingerprints_of_orphans references device_fingerprints);"
            "insert into copies select id from device_fingerprints",
        ),
        changed_by_others=frozenset({"copies"}),
    ),
    Case(
        "a cascade that is added between judging and writing",
        "",
        failed(FINGERPRINTS),
        ("foreign key",),
        left={FINGERPRINTS: 8},
        meanwhile=(
            FINGERPRINTS,
            "judging",
            "alter table after_hours_messages add fingerprint_id uuid references device_fingerprints on delete cascade;"
            "update after_hours_messages set fingerprint_id = md5('fingerprint 1')::uuid",
        ),
        changed_by_others=frozenset({"after_hours_messages"}),
    ),
    Case(
        "a role that loses its grant half way",
        "",
        failed(FINGERPRINTS),
        ("device_fingerprints", "privilege"),
        left={FINGERPRINTS: 8},
        role="granted",
        meanwhile=(FINGERPRINTS, "judging", "revoke delete on device_fingerprints from ROLE"),
    ),
    Case(
        "a role that loses its grants on a rule to come",
        "",
        refused(PREFERENCES),
        ("grant delete on public.after_hours_preferences to",),
        role="granted",
        found="run",
        meanwhile=(DECLINES, "windows", "revoke delete on after_hours_preferences from ROLE"),
    ),
    Case(
        "a policy that comes between judging and writing",
        "",
        failed(FINGERPRINTS),
        ("public.device_fingerprints", "42501"),
        left={FINGERPRINTS: 8},
        role="granted",
        meanwhile=(FINGERPRINTS, "judging", "alter table device_fingerprints enable row level security"),
    ),
    Case(
        "a trigger that comes between judging and writing and keeps every row",
        "",
        failed(FINGERPRINTS),
        ("veto",),
        left={FINGERPRINTS: 8},
        meanwhile=(
            FINGERPRINTS,
            "judging",
            "create function veto() returns trigger language plpgsql as $$ begin return null; end $$;"
            "create trigger veto before delete on device_fingerprints for each row execute function veto()",
        ),
    ),
    Case(
        "a column that is renamed between judging and writing",
        "",
        failed(FINGERPRINTS),
        ("column",),
        left={FINGERPRINTS: 8},
        meanwhile=(FINGERPRINTS, "judging", "alter table device_fingerprints rename created_at to made_at"),
        changed_by_others=frozenset({"device_fingerprints"}),
    ),
    Case(
        "a table that is dropped between judging and writing",
        "",
        failed(FINGERPRINTS),
        ("public.device_fingerprints was dropped",),
        left={FINGERPRINTS: 8},
        meanwhile=(FINGERPRINTS, "judging", "drop table device_fingerprints"),
        changed_by_others=frozenset({"device_fingerprints"}),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.name))
def test_what_a_bad_database_does(case: Case, cli: Cli, planted: App, database: str, monkeypatch: Any) -> None:
    as_of = planted.execute("select now() - interval '1 second'").fetchall()[0][0]
    with logging_in(case, cli, planted, database) as (url, prepared):
        planted.execute(prepared(case.made))
        before, want = whole_database(planted), promised(planted, case, as_of)
        variables = {"CLEANUP_DATABASE_URL": url}

        for command in ("doctor", "plan"):
            looked = cli(command, "--json", **variables)
            assert looked.code == case.code_of(command), looked
            assert_said(case, looked, command)
        assert whole_database(planted) == before

        if case.meanwhile:
            do_meanwhile(monkeypatch, case.meanwhile, lambda statement: planted.execute(prepared(statement)))
        chosen = [argument for name in case.rules for argument in ("--rule", name)]
        ran = cli("run", "--json", "--full-speed", "--as-of", as_of.isoformat(), *chosen, **variables)
        after = whole_database(planted)

    assert ran.code == case.code, ran
    assert {name: rule["status"] for name, rule in ran.rules.items()} == {
        name: case.ends.get(name, Status.SUCCESS) for name in case.rules
    }, ran
    assert_said(case, ran, "run")
    for rule in [rule for rule in RULES if rule.name in case.rules]:
        gone = (before.rows.get(rule.table.name, Counter()) - want.rows.get(rule.table.name, Counter())).total()
        stay = case.left.get(rule.name, 0)
        again = case.again if rule.name in case.ends else 0
        assert 0 <= ran.rules[rule.name]["affected"] - (gone - stay) <= again
        if rule.name in case.ends and ran.rules[rule.name]["remaining"] is not None:
            assert ran.rules[rule.name]["remaining"] == stay
    assert_as_promised(case, before, want, after)


@pytest.fixture
def database(server_url: str, planted_template: str) -> Iterator[str]:
    """The URL of a database in which each rule has rows to clean."""
    with fresh_database(server_url, planted_template) as url:
        yield url


@pytest.fixture(scope="module")
def planted_template(server_url: str, schema_template: str) -> Iterator[str]:
    with fresh_database(server_url, schema_template) as url:
        with psycopg.connect(url) as connection:
            plant(connection, 40)
        yield name_of(url)


@pytest.fixture
def planted(database: str) -> Iterator[App]:
    """The app, connected to `database`; every statement commits by itself."""
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


def promised(app: App, case: Case, as_of: datetime) -> Tables:
    """The whole database, with the tables of the rules that are to do their work as the promises say."""
    works = [rule.table.name for rule in RULES if rule.name in case.rules and case.ends.get(rule.name) is not REFUSED]
    return Tables({**whole_database(app).rows, **expected(app, as_of, tables=works).rows})


def assert_said(case: Case, ended: Ended, command: str) -> None:
    """Each rule that does not succeed says why, in the JSON and to a person; doctor tells what else it saw."""
    if command == "doctor":
        said = "\n".join(finding["what"] for rule in ended.rules.values() for finding in rule["findings"])
        assert [words for words in case.doctor if words not in said] == [], said
        return
    for name in case.ends:
        if command == "plan" and ended.rules[name]["status"] == Status.SUCCESS:
            continue
        error = ended.rules[name]["error"]
        assert [words for words in case.told if words not in error] == [], error
        assert error in ended.err


def assert_as_promised(case: Case, before: Tables, want: Tables, after: Tables) -> None:
    rules = {rule.table.name: rule for rule in RULES}
    for table in before.rows.keys() | after.rows.keys():
        if table in case.changed_by_others:
            continue
        rule = rules.get(table)
        stay = case.left.get(rule.name, 0) if rule else 0
        if rule is None or not stay:
            assert Tables({table: after.rows[table]}) == Tables({table: want.rows[table]})
            continue
        # So many of the due rows are as they were, whichever; all else is as promised.
        kept, missing = after.rows[table] - want.rows[table], want.rows[table] - after.rows[table]
        assert kept <= before.rows[table]
        assert (kept.total(), missing.total()) == (stay, stay if isinstance(rule.action, Close) else 0)


@contextmanager
def logging_in(case: Case, cli: Cli, app: App, database: str) -> Iterator[tuple[str, Callable[[str], bytes]]]:
    """The URL that the case logs in with, and what puts its names into SQL."""
    role = f"role_of_{name_of(database)}"
    with ExitStack() as stack:
        if case.role is not None:
            app.execute(sql.SQL("create role {} login").format(sql.Identifier(role)))
            stack.callback(drop_role, app, role)
            if case.role == "granted":
                app.execute(cli("grants", "--role", role).out.encode())

        def prepared(statement: str) -> bytes:
            return statement.replace("DATABASE", name_of(database)).replace("ROLE", role).encode()

        url = database if case.role is None else database.replace("://postgres@", f"://{role}@", 1)
        yield case.url(url), prepared


def drop_role(app: App, role: str) -> None:
    app.execute(
        sql.SQL("reassign owned by {0} to postgres; drop owned by {0}; drop role {0}").format(sql.Identifier(role))
    )


def do_meanwhile(monkeypatch: pytest.MonkeyPatch, when: tuple[str, str, str], do: Callable[[str], object]) -> None:
    """Have it done between two of the sweep's transactions, once; the sweep goes on when it is committed."""
    rule, stage, statement = when
    pending = [statement]

    def progress(_: Observed, made: Progress) -> None:
        if (made.rule, made.stage) == (rule, stage) and pending:
            do(pending.pop())

    monkeypatch.setattr(Observed, "progress", progress)
