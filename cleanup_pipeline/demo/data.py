"""Synthetic rows with known numbers to clean, made on the server."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any

from psycopg import Connection, sql

from cleanup_pipeline.demo.schema import TABLES
from cleanup_pipeline.rules import RULES, Delete

# Every statement makes rows 1 to n; what a row is follows from its number alone. Keys are hashes of the number: as
# scattered as in production, and a child can name its parent without looking for it. Rows near a border stay on their
# side of it for almost an hour after `now`.
ROWS: Mapping[str, str] = {
    "users": """
        insert into users (id, provider, email, created_at)
        select
            'user-' || md5('user ' || i),
            case mod(i, 3) when 0 then 'apple' when 1 then 'google' else 'phone' end,
            'user-' || i || '@example.com',
            %(now)s - interval '90 days'
        from generate_series(1, %(n)s::int) as i
    """,
    # 1 of 10 belongs to nobody. So does 1 of 100 that is new, and 1 of 100 that is old but was changed just now.
    "after_hours_profiles": """
        insert into after_hours_profiles (user_id, photo_url, description, photo_hash, created_at, updated_at)
        select
            case when mod(i, 10) = 1 or mod(i, 100) in (2, 12) then 'nobody-' else 'user-' end || md5('user ' || i),
            'https://photos.example.com/' || md5('photo ' || i) || '.jpg',
            'About number ' || i,
            left(md5('photo ' || i), 16),
            case when mod(i, 100) = 2 then young else old end,
            case when mod(i, 100) in (2, 12) then young else old end
        from
            generate_series(1, %(n)s::int) as i,
            lateral (select %(now)s - mod(i, 60) * interval '5 seconds') as a (young),
            lateral (select %(now)s - interval '61 minutes' - mod(i, 86400) * interval '1 minute') as b (old)
    """,
    "after_hours_preferences": """
        insert into after_hours_preferences
            (user_id, seeking_gender, max_distance_km, interests, min_age, max_age, created_at, updated_at)
        select
            case when mod(i, 10) = 1 or mod(i, 100) in (2, 12) then 'nobody-' else 'user-' end || md5('user ' || i),
            case mod(i, 3) when 0 then 'women' when 1 then 'men' else 'everyone' end,
            5 + mod(i, 95),
            array['hiking', 'films'],
            18 + mod(i, 20),
            40 + mod(i, 40),
            case when mod(i, 100) = 2 then young else old end,
            case when mod(i, 100) in (2, 12) then young else old end
        from
            generate_series(1, %(n)s::int) as i,
            lateral (select %(now)s - mod(i, 60) * interval '5 seconds') as a (young),
            lateral (select %(now)s - interval '61 minutes' - mod(i, 86400) * interval '1 minute') as b (old)
    """,
    # One a user. Odd ones expired from a second to 30 days ago and are open; of the others 1 of 5 is running and 1 of 5
    # was ended before it expired.
    "after_hours_sessions": """
        insert into after_hours_sessions
            (id, user_id, started_at, expires_at, ended_at,
            latitude, longitude, fuzzed_latitude, fuzzed_longitude, created_at)
        select
            md5('session ' || i)::uuid,
            'user-' || md5('user ' || i),
            expires_at - interval '4 hours',
            expires_at,
            case
                when mod(i, 2) = 1 or mod(i, 10) = 2 then null
                when mod(i, 10) = 4 then expires_at - interval '1 hour'
                else expires_at
            end,
            latitude,
            longitude,
            round(latitude::numeric, 2),
            round(longitude::numeric, 2),
            expires_at - interval '4 hours'
        from
            generate_series(1, %(n)s::int) as i,
            lateral (
                select case
                    when mod(i, 10) = 2 then %(now)s + interval '1 hour' + mod(i, 180) * interval '1 minute'
                    else %(now)s - (1 + mod(i::bigint * 7919, 2592000)) * interval '1 second'
                end
            ) as a (expires_at),
            lateral (select 40 + random() * 20, -10 + random() * 40) as b (latitude, longitude)
    """,
    # Odd ones are 7 to 67 days old; of the others 1 of 5 will be 7 days old in an hour and 1 of 5 is dated tomorrow.
    "after_hours_declines": """
        insert into after_hours_declines
            (id, session_id, user_id, declined_user_id, created_at, decline_count, first_declined_at, last_session_id)
        select
            md5('decline ' || i)::uuid,
            md5('session ' || i)::uuid,
            'user-' || md5('user ' || i),
            'user-' || md5('user ' || 1 + mod(i::bigint * 7919, %(n)s::int)),
            created_at,
            1 + mod(i, 4),
            created_at,
            md5('session ' || i)::uuid
        from
            generate_series(1, %(n)s::int) as i,
            lateral (
                select case
                    when mod(i, 2) = 1 then
                        %(now)s - interval '168 hours' - (1 + mod(i::bigint * 7919, 5184000)) * interval '1 second'
                    when mod(i, 10) = 2 then %(now)s - interval '167 hours'
                    when mod(i, 10) = 4 then %(now)s + interval '24 hours'
                    else %(now)s - mod(i::bigint * 7919, 601200) * interval '1 second'
                end
            ) as a (created_at)
    """,
    # 1 of 10 rows of a table: what chat-service owns, expired long ago, and still none of our business.
    "after_hours_matches": """
        insert into after_hours_matches
            (id, session_id, user_id_1, user_id_2, expires_at,
            converted_to_match_id, declined_by, declined_at, created_at)
        select
            md5('match ' || i)::uuid,
            md5('session ' || i)::uuid,
            'user-' || md5('user ' || i),
            'user-' || md5('user ' || 1 + mod(i, %(n)s::int)),
            %(now)s - mod(i, 60) * interval '1 day',
            case when mod(i, 5) = 2 then md5('match ' || i - 1)::uuid end,
            case when mod(i, 5) = 3 then 'user-' || md5('user ' || i) end,
            case when mod(i, 5) = 3 then %(now)s - mod(i, 60) * interval '1 day' end,
            %(now)s - interval '1 day' - mod(i, 60) * interval '1 day'
        from generate_series(1, (%(n)s::int + 9) / 10) as i
    """,
    "after_hours_messages": """
        insert into after_hours_messages (id, match_id, sender_id, text, created_at)
        select
            md5('message ' || i)::uuid,
            md5('match ' || i)::uuid,
            'user-' || md5('user ' || i),
            'Hello number ' || i,
            %(now)s - mod(i, 60) * interval '1 day'
        from generate_series(1, (%(n)s::int + 9) / 10) as i
    """,
    # 1 of 5 names a session that is gone (an orphan rule stops at a quarter of its table), 1 of 50 one that may yet
    # come, 1 of 10 none.
    "device_fingerprints": """
        insert into device_fingerprints (id, user_id, session_id, device_id, device_model, platform, created_at)
        select
            md5('fingerprint ' || i)::uuid,
            'user-' || md5('user ' || i),
            case
                when mod(i, 5) = 1 or mod(i, 50) = 2 then md5('lost session ' || i)::uuid
                when mod(i, 10) <> 3 then md5('session ' || i)::uuid
            end,
            md5('device ' || i),
            'Phone ' || mod(i, 20),
            case mod(i, 2) when 0 then 'ios' else 'android' end,
            case
                when mod(i, 50) = 2 then %(now)s - mod(i, 60) * interval '5 seconds'
                else %(now)s - interval '61 minutes' - mod(i, 86400) * interval '1 minute'
            end
        from generate_series(1, %(n)s::int) as i
    """,
}


@dataclass(frozen=True, slots=True)
class Planted:
    """What `plant` made: rows in each table, those that each rule must clean, and those that each table must keep."""

    now: datetime
    rows: Mapping[str, int]
    due: Mapping[str, int]

    @property
    def kept(self) -> Mapping[str, int]:
        """Rows of each table after a run of all rules: closed rows stay, deleted ones go."""
        gone = {rule.table.name: self.due[rule.name] for rule in RULES if isinstance(rule.action, Delete)}
        return MappingProxyType({table: rows - gone.get(table, 0) for table, rows in self.rows.items()})


def plant(connection: Connection[Any], rows: int, now: datetime | None = None) -> Planted:
    """Fill the empty tables with `rows` rows each (a tenth of that in matches and messages), around `now`.

    `now` is the server's clock where it is None. The numbers hold for a run as of any instant in the 50 minutes after.
    """
    with connection.transaction():
        connection.execute("set local search_path = public")
        now = now or connection.execute("select now()").fetchall()[0][0]
        with without_indexes(connection):
            for table in TABLES:
                connection.execute(ROWS[table].encode(), {"n": rows, "now": now})
        for table in TABLES:
            connection.execute(sql.SQL("analyze {}").format(sql.Identifier(table)))
    tenth = (rows + 9) // 10
    planted = dict.fromkeys(TABLES, rows) | {"after_hours_matches": tenth, "after_hours_messages": tenth}
    due = {
        "expired_sessions": (rows + 1) // 2,
        "old_declines": (rows + 1) // 2,
        "orphaned_fingerprints": (rows + 4) // 5,
        "orphaned_profiles": (rows + 9) // 10,
        "orphaned_preferences": (rows + 9) // 10,
    }
    return Planted(now, MappingProxyType(planted), MappingProxyType(due))


def counts(connection: Connection[Any]) -> Mapping[str, int]:
    """Count the rows of every table."""
    count = sql.SQL("(select count(*) from {})")
    query = sql.SQL("select {}").format(sql.SQL(", ").join(count.format(sql.Identifier("public", t)) for t in TABLES))
    [row] = connection.execute(query).fetchall()
    return MappingProxyType(dict(zip(TABLES, row, strict=True)))


@contextmanager
def without_indexes(connection: Connection[Any]) -> Iterator[None]:
    """Take keys and indexes away while the tables are filled, as a restore does: with random keys 70 s and not 190."""
    constraints = connection.execute(CONSTRAINTS, [list(TABLES)]).fetchall()
    indexes = connection.execute(INDEXES, [list(TABLES)]).fetchall()
    for table, name, _ in reversed(constraints):
        connection.execute(
            sql.SQL("alter table {} drop constraint {}").format(sql.Identifier(table), sql.Identifier(name))
        )
    for name, _ in indexes:
        connection.execute(sql.SQL("drop index {}").format(sql.Identifier(name)))
    yield
    connection.execute("set local maintenance_work_mem = '256MB'")
    for _, definition in indexes:
        connection.execute(definition.encode())
    for table, name, definition in constraints:
        connection.execute(
            sql.SQL("alter table {} add constraint {} {}").format(
                sql.Identifier(table), sql.Identifier(name), sql.SQL(definition)
            )
        )


# Foreign keys stand last: they need the keys that they refer to.
CONSTRAINTS = """
    select t.relname, c.conname, pg_get_constraintdef(c.oid)
    from pg_constraint c join pg_class t on t.oid = c.conrelid
    where t.relnamespace = 'public'::regnamespace and t.relname = any(%s) and c.contype in ('p', 'u', 'f')
    order by c.contype = 'f'
"""
INDEXES = """
    select i.relname, pg_get_indexdef(i.oid)
    from pg_index x join pg_class i on i.oid = x.indexrelid join pg_class t on t.oid = x.indrelid
    where t.relnamespace = 'public'::regnamespace and t.relname = any(%s)
    and not exists (select from pg_constraint c where c.conindid = i.oid and c.contype in ('p', 'u'))
"""
