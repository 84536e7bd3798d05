"""What is checked before a sweep may write.

Everything is read from the catalog, as the database is now. A *refusal* keeps the rule from touching anything; a *warning*
and a *note* are told and let it run.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from psycopg import sql

from cleanup_pipeline.postgres import CleanupError, Limits, Session, Transaction
from cleanup_pipeline.rules import Close, Delete, Reference, Rule, Table

OLDEST_SERVER = 140000
_TIMESTAMP = "timestamp with time zone"
_MAX_CLOCK_DIFFERENCE = timedelta(minutes=5)
_CATALOG_LIMITS = Limits(statement_s=10.0)


class RefusedError(CleanupError):
    """A safety check says no; nothing was touched."""


class Severity(StrEnum):
    """What follows from a finding."""

    REFUSAL = "refused"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that preflight has to say: what was found, and what to do about it."""

    severity: Severity
    what: str
    do: str = ""

    def __str__(self) -> str:
        return f"{self.what} {self.do}".strip()


@dataclass(frozen=True, slots=True)
class Leaf:
    """A table that holds rows itself: a plain table, or a partition."""

    oid: int
    table: Table


@dataclass(frozen=True)
class Target:
    """A rule as it meets the database: the tables to sweep and what is known of them."""

    rule: Rule
    leaves: tuple[Leaf, ...]
    age_columns: tuple[str, ...]
    age_may_be_null: bool
    reference_type: str | None
    parent_is_indexed: bool
    guard: str | None
    triggers: tuple[str, ...] = ()
    vetoing_triggers: tuple[str, ...] = ()


@dataclass
class Report:
    """What preflight found for one rule; `target` is None where the rule can't be carried out at all."""

    rule: Rule
    findings: list[Finding] = field(default_factory=list)
    target: Target | None = None

    @property
    def refusals(self) -> list[Finding]:
        """The findings that keep the rule from running."""
        return [finding for finding in self.findings if finding.severity is Severity.REFUSAL]


def require(session: Session, rule: Rule) -> Report:
    """Inspect, and raise `RefusedError` with the first refusal (and how many more there are)."""
    report = inspect(session, rule)
    if report.refusals:
        first, *more = report.refusals
        raise RefusedError(str(first) + (f" ({len(more)} more: cleanup-pipeline doctor)" if more else ""))
    assert report.target is not None  # noqa: S101 -- without a refusal there is a target
    return report


def inspect(session: Session, rule: Rule) -> Report:
    """Look at everything that a sweep of `rule` would meet. Reads the catalog only."""
    report = Report(rule)
    with session.transaction(_CATALOG_LIMITS) as transaction:
        catalog = _Catalog(transaction)
        report.findings += _server(catalog, session)
        table = catalog.relation(rule.table)
        report.findings += _kind(table, rule.table, swept=True)
        parent = catalog.relation(rule.orphan_of.parent) if rule.orphan_of else None
        if rule.orphan_of:
            report.findings += _kind(parent, rule.orphan_of.parent, swept=False)
        if report.refusals or table is None:
            return report
        report.findings += _columns(rule, table)
        if rule.orphan_of and parent is not None:
            report.findings += _reference(rule.orphan_of, rule.table, table, parent)
        if report.refusals:
            return report
        leaves = catalog.leaves(table)
        report.findings += _leaf_kinds(catalog, leaves)
        report.findings += _privileges(catalog, rule, table, leaves, parent)
        report.findings += _row_security(catalog, rule, leaves, parent)
        report.findings += _blast_radius(catalog, rule, table, leaves)
        triggers = catalog.triggers([leaf.oid for leaf in leaves], rule.action)
        report.findings += _triggers(rule, triggers)
        report.findings += _publications(catalog, rule, leaves)
        report.target = Target(
            rule=rule,
            leaves=leaves,
            age_columns=tuple(c for c in (rule.age.columns if rule.age else ()) if c in table.columns),
            age_may_be_null=bool(rule.age)
            and all(table.columns[c].nullable for c in (rule.age.columns if rule.age else ()) if c in table.columns),
            reference_type=table.columns[rule.orphan_of.column].type if rule.orphan_of else None,
            parent_is_indexed=bool(rule.orphan_of and parent and catalog.is_indexed(parent, rule.orphan_of.key)),
            guard=catalog.guard(rule.orphan_of, table, parent) if rule.orphan_of and parent else None,
            triggers=tuple(trigger.name for trigger in triggers),
            vetoing_triggers=tuple(trigger.name for trigger in triggers if trigger.may_veto),
        )
    return report


# --- What the catalog says -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Column:
    number: int
    type: str
    collation: int
    built_in: bool
    nullable: bool


@dataclass(frozen=True)
class _Relation:
    oid: int
    table: Table
    kind: str
    has_heirs: bool
    columns: dict[str, _Column]


@dataclass(frozen=True, slots=True)
class _Trigger:
    name: str
    may_veto: bool


@dataclass(frozen=True, slots=True)
class _ForeignKey:
    name: str
    child: int
    child_name: str
    parent: int
    key: tuple[int, ...]
    on_delete: str
    on_update: str
    deferred: bool


_ACTIONS = {"c": "cascade", "n": "set null", "d": "set default", "a": "no action", "r": "restrict"}
_KINDS = {"v": "a view", "m": "a materialized view", "f": "a foreign table", "S": "a sequence", "c": "a composite type"}


class _Catalog:
    """Questions to the system catalog, within one transaction."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    def _rows(self, query: str, **values: Any) -> list[tuple[Any, ...]]:
        literals = {name: sql.Literal(value) for name, value in values.items()}
        return self._transaction.rows(sql.SQL(query).format(**literals))

    def server(self) -> tuple[bool, bool, str, datetime]:
        ((standby, read_only, role, now),) = self._rows(
            """
            select pg_is_in_recovery(), current_setting('default_transaction_read_only')::bool,
                   current_setting('session_replication_role'), clock_timestamp()
            """
        )
        return standby, read_only, role, now

    def relation(self, table: Table) -> _Relation | None:
        found = self._rows(
            """
            select c.oid::bigint, c.relkind::text,
                   exists (
                       select from pg_inherits i
                       join pg_class heir on heir.oid = i.inhrelid
                       where i.inhparent = c.oid and not heir.relispartition
                   )
            from pg_class c
            join pg_namespace n on n.oid = c.relnamespace
            where n.nspname = {schema} and c.relname = {name}
            """,
            schema=table.schema,
            name=table.name,
        )
        if not found:
            return None
        oid, kind, has_heirs = found[0]
        columns = self._rows(
            """
            select a.attname, a.attnum, format_type(coalesce(nullif(t.typbasetype, 0), t.oid), null), a.attcollation::bigint,
                   t.typtype = 'b' and t.typnamespace = 'pg_catalog'::regnamespace, not a.attnotnull
            from pg_attribute a
            join pg_type t on t.oid = a.atttypid
            where a.attrelid = {oid}::oid and a.attnum > 0 and not a.attisdropped
            """,
            oid=oid,
        )
        return _Relation(oid, table, kind, has_heirs, {name: _Column(*rest) for name, *rest in columns})

    def leaves(self, table: _Relation) -> tuple[Leaf, ...]:
        if table.kind != "p":
            return (Leaf(table.oid, table.table),)
        return tuple(
            Leaf(oid, Table(name, schema))
            for oid, schema, name in self._rows(
                """
                select c.oid::bigint, n.nspname, c.relname
                from pg_partition_tree({oid}::oid::regclass) p
                join pg_class c on c.oid = p.relid
                join pg_namespace n on n.oid = c.relnamespace
                where p.isleaf and c.relkind <> 'p'
                order by n.nspname, c.relname
                """,
                oid=table.oid,
            )
        )

    def foreign_leaves(self, leaves: tuple[Leaf, ...]) -> list[str]:
        return [
            name
            for (name,) in self._rows(
                "select oid::regclass::text from pg_class where relkind = 'f' and oid = any({oids}::bigint[]::oid[])",
                oids=[leaf.oid for leaf in leaves],
            )
        ]

    def is_indexed(self, relation: _Relation, column: str) -> bool:
        ((indexed,),) = self._rows(
            """
            select exists (
                select from pg_index
                where indrelid = {oid}::oid and indisvalid and indpred is null and indkey[0] = {column}
            )
            """,
            oid=relation.oid,
            column=relation.columns[column].number,
        )
        return bool(indexed)

    def guard(self, reference: Reference, table: _Relation, parent: _Relation) -> str | None:
        """The foreign key that makes an orphan impossible: validated, enforced, and all of its triggers enabled."""
        enforced = "c.conenforced" if self._has_column("pg_constraint", "conenforced") else "true"
        found = self._rows(
            f"""
            with recursive c as (
                select * from pg_constraint
                where contype = 'f' and conrelid = {{table}}::oid and confrelid = {{parent}}::oid
                  and conkey = array[{{column}}]::int2[] and confkey = array[{{key}}]::int2[]
            ), family (root, oid) as (
                select oid, oid from c
                union all
                select f.root, child.oid from family f join pg_constraint child on child.conparentid = f.oid
            )
            select c.conname
            from c
            where c.convalidated and {enforced}
              and not exists (
                  select from pg_trigger t
                  join family f on f.oid = t.tgconstraint
                  where f.root = c.oid and t.tgenabled not in ('O', 'A')
              )
            order by c.conname
            limit 1
            """,  # noqa: S608 -- a column of the catalog that older servers lack
            table=table.oid,
            parent=parent.oid,
            column=table.columns[reference.column].number,
            key=parent.columns[reference.key].number,
        )
        return found[0][0] if found else None

    def _has_column(self, relation: str, column: str) -> bool:
        ((found,),) = self._rows(
            "select exists (select from pg_attribute where attrelid = {relation}::regclass and attname = {column})",
            relation=f"pg_catalog.{relation}",
            column=column,
        )
        return bool(found)

    def family(self, oids: list[int]) -> set[int]:
        """The tables, and the partitioned tables above them: a foreign key that points at either points at their rows."""
        return {
            oid
            for (oid,) in self._rows(
                """
                select oid::bigint from unnest({oids}::bigint[]) as oid
                union
                select a.relid::oid::bigint from unnest({oids}::bigint[]) as leaf, pg_partition_ancestors(leaf::oid::regclass) a
                where a.relid is not null
                """,
                oids=oids,
            )
        }

    def foreign_keys(self) -> list[_ForeignKey]:
        return [
            _ForeignKey(name, child, child_name, parent, tuple(key), on_delete, on_update, deferred)
            for name, child, child_name, parent, key, on_delete, on_update, deferred in self._rows(
                """
                select conname, conrelid::bigint, conrelid::regclass::text, confrelid::bigint, confkey,
                       confdeltype::text, confupdtype::text, condeferred
                from pg_constraint
                where contype = 'f'
                order by conrelid::regclass::text, conname
                """
            )
        ]

    def rewrite_rules(self, oids: list[int], action: Delete | Close) -> list[tuple[str, str]]:
        return [
            (name, table)
            for name, table in self._rows(
                """
                select rulename, ev_class::regclass::text from pg_rewrite
                where ev_class = any({oids}::bigint[]::oid[]) and ev_type = {event} and ev_enabled <> 'D'
                order by rulename
                """,
                oids=oids,
                event="4" if isinstance(action, Delete) else "2",
            )
        ]

    def triggers(self, oids: list[int], action: Delete | Close) -> list[_Trigger]:
        """The app's enabled triggers that fire on what the rule does. Type bits: 1 row, 2 before, 8 delete, 16 update."""
        return [
            _Trigger(name, may_veto)
            for name, may_veto in self._rows(
                """
                select distinct tgname, tgtype & 3 = 3
                from pg_trigger t
                where tgrelid = any({oids}::bigint[]::oid[]) and not tgisinternal and tgenabled in ('O', 'A')
                  and tgtype & {event} <> 0
                  and (cardinality(tgattr) = 0 or exists (
                      select from pg_attribute a
                      where a.attrelid = t.tgrelid and a.attnum = any(t.tgattr) and a.attname = {column}
                  ))
                order by tgname
                """,
                oids=oids,
                event=8 if isinstance(action, Delete) else 16,
                column=action.column if isinstance(action, Close) else "",
            )
        ]

    def missing_privileges(
        self, wanted: list[tuple[str, int, str | None, str]]
    ) -> list[tuple[str, int, str | None, str]]:
        """Those of (privilege, relation, column, grant) that this role lacks; column None: on any column."""
        missing = []
        for privilege, oid, column, grant in wanted:
            if column is None:
                query = "select has_any_column_privilege({oid}::oid, {privilege})"
                if privilege == "DELETE":
                    query = "select has_table_privilege({oid}::oid, {privilege})"
                ((held,),) = self._rows(query, oid=oid, privilege=privilege)
            else:
                ((held,),) = self._rows(
                    "select has_column_privilege({oid}::oid, {column}, {privilege})",
                    oid=oid,
                    column=column,
                    privilege=privilege,
                )
            if not held:
                missing.append((privilege, oid, column, grant))
        return missing

    def may_make_temporary_tables(self) -> tuple[bool, str]:
        ((may, database),) = self._rows(
            "select has_database_privilege(current_database(), 'TEMP'), quote_ident(current_database())"
        )
        return may, database

    def may_use_schema(self, schema: str) -> bool:
        ((may,),) = self._rows("select has_schema_privilege({schema}, 'USAGE')", schema=schema)
        return bool(may)

    def role(self) -> str:
        ((role,),) = self._rows("select quote_ident(current_user)")
        return str(role)

    def hides_rows(self, oids: list[int]) -> list[str]:
        return [
            name
            for (name,) in self._rows(
                "select oid::regclass::text from unnest({oids}::bigint[]) as oid where row_security_active(oid::oid)",
                oids=oids,
            )
        ]

    def unidentified_published(self, oids: list[int], action: Delete | Close) -> list[tuple[str, str]]:
        """Published tables whose rows have no identity: the server refuses every such write."""
        column = "pubdelete" if isinstance(action, Delete) else "pubupdate"
        return [
            (table, publication)
            for table, publication in self._rows(
                f"""
                select c.oid::regclass::text, p.pubname
                from pg_class c
                join pg_namespace n on n.oid = c.relnamespace
                join pg_publication_tables pt on pt.schemaname = n.nspname and pt.tablename = c.relname
                join pg_publication p on p.pubname = pt.pubname and p.{column}
                where c.oid = any({{oids}}::bigint[]::oid[])
                  and (c.relreplident = 'n' or c.relreplident = 'd' and not exists (
                      select from pg_index i where i.indrelid = c.oid and i.indisprimary and i.indisvalid
                  ))
                order by 1, 2
                """,  # noqa: S608 -- one of two columns of the catalog
                oids=oids,
            )
        ]


# --- What follows from it --------------------------------------------------------------------------------------------


def _refusal(what: str, do: str = "") -> Finding:
    return Finding(Severity.REFUSAL, what, do)


def _server(catalog: _Catalog, session: Session) -> Iterator[Finding]:
    if session.server_version < OLDEST_SERVER:
        yield _refusal(
            f"The server is PostgreSQL {session.server_version // 10000}; 14 or later is needed (scans by block range)."
        )
    standby, read_only, replication_role, now = catalog.server()
    if standby:
        yield _refusal("The server is a standby and can't be written to.", "Point the URL at the primary.")
    if read_only:
        yield _refusal(
            "Transactions are read-only here (default_transaction_read_only, set for the role, database or in the URL).",
            "Use a role that may write.",
        )
    if replication_role != "origin":
        yield _refusal(
            f"session_replication_role is {replication_role} for this role: foreign keys and triggers would not fire.",
            "Reset it (alter role … reset session_replication_role).",
        )
    difference = abs(now - datetime.now(UTC))
    if difference > _MAX_CLOCK_DIFFERENCE:
        yield _refusal(
            f"The database's clock and this machine's differ by {difference.total_seconds() / 60:.0f} minutes.",
            "A fast clock makes everything old: mend the clock that is wrong.",
        )


def _kind(relation: _Relation | None, table: Table, *, swept: bool) -> Iterator[Finding]:
    if relation is None:
        yield _refusal(f"The table {table} does not exist in this database.", "Check the database in the URL.")
    elif relation.kind not in ("r", "p"):
        yield _refusal(f"{table} is {_KINDS.get(relation.kind, 'no table')}; a table was expected.")
    elif swept and relation.has_heirs:
        yield _refusal(f"{table} has tables that inherit from it and are no partitions; they can't be swept safely.")


def _leaf_kinds(catalog: _Catalog, leaves: tuple[Leaf, ...]) -> Iterator[Finding]:
    for name in catalog.foreign_leaves(leaves):
        yield _refusal(f"The partition {name} is a foreign table; only this database's own tables can be swept.")


def _columns(rule: Rule, table: _Relation) -> Iterator[Finding]:
    expected = dict(rule.columns)
    for place, column in enumerate(rule.age.columns if rule.age else ()):
        if place == 0 or column in table.columns:
            expected[column] = _TIMESTAMP
    for name, type_ in expected.items():
        found = table.columns.get(name)
        if found is None:
            yield _refusal(f"The table {table.table} has no column {name} ({type_} was expected).")
        elif found.type != type_:
            yield _refusal(f"The column {table.table}.{name} is {found.type}; {type_} was expected.")


def _reference(reference: Reference, name: Table, table: _Relation, parent: _Relation) -> Iterator[Finding]:
    column, key = table.columns.get(reference.column), parent.columns.get(reference.key)
    if column is None:
        yield _refusal(f"The table {name} has no column {reference.column}.")
    if key is None:
        yield _refusal(f"The table {reference.parent} has no column {reference.key}.")
    if column is None or key is None:
        return
    here, there = f"{name}.{reference.column}", f"{reference.parent}.{reference.key}"
    if column.type != key.type:
        yield _refusal(
            f"{here} is {column.type}, and {there}, to which it refers, is {key.type}.",
            "Values of different types can't be compared safely: give both the same type.",
        )
    elif column.collation != key.collation:
        yield _refusal(f"{here} and {there}, to which it refers, have different collations.")
    elif not (column.built_in and key.built_in):
        yield _refusal(f"{here} is of type {column.type}, which is not built in: its equality is not known to be safe.")


def _privileges(
    catalog: _Catalog, rule: Rule, table: _Relation, leaves: tuple[Leaf, ...], parent: _Relation | None
) -> Iterator[Finding]:
    role = catalog.role()
    for schema in dict.fromkeys([rule.table.schema, *(leaf.table.schema for leaf in leaves)]):
        if not catalog.may_use_schema(schema):
            yield _refusal(
                f"The role {role} may not use the schema {schema}.", f"grant usage on schema {schema} to {role};"
            )
    wanted: list[tuple[str, int, str | None, str]] = []
    for leaf in leaves:
        wanted += [
            ("SELECT", leaf.oid, column, f"grant select ({column}) on {leaf.table} to {role};")
            for column in ("ctid", *columns_read(rule, set(table.columns)))
        ]
        if isinstance(rule.action, Delete):
            wanted.append(("DELETE", leaf.oid, None, f"grant delete on {leaf.table} to {role};"))
            wanted.append(
                (
                    "UPDATE",
                    leaf.oid,
                    None,
                    f"grant update ({columns_read(rule, set(table.columns))[0]}) on {leaf.table} to {role};",
                )
            )
        else:
            column = rule.action.column
            wanted.append(("UPDATE", leaf.oid, column, f"grant update ({column}) on {leaf.table} to {role};"))
    if rule.orphan_of and parent is not None:
        key = rule.orphan_of.key
        wanted.append(("SELECT", parent.oid, key, f"grant select ({key}) on {rule.orphan_of.parent} to {role};"))
    missing = catalog.missing_privileges(wanted)
    if missing:
        lacks = ", ".join(
            dict.fromkeys(f"{privilege}{f' ({column})' if column else ''}" for privilege, _, column, _ in missing)
        )
        yield _refusal(
            f"The role {role} lacks {lacks} for {rule.name} on {rule.table}"
            + (f" or {rule.orphan_of.parent}." if rule.orphan_of else "."),
            " ".join(dict.fromkeys(grant for *_, grant in missing)),
        )
    may, database = catalog.may_make_temporary_tables()
    if not may:
        yield _refusal(
            f"The role {role} may not make temporary tables, which hold what was judged.",
            f"grant temporary on database {database} to {role};",
        )


def columns_read(rule: Rule, existing: set[str]) -> list[str]:
    """The columns of its table that a rule's statements read, without `ctid`."""
    reads = [*rule.columns, *(c for c in (rule.age.columns if rule.age else ()) if c in existing)]
    if rule.orphan_of:
        reads.append(rule.orphan_of.column)
    return list(dict.fromkeys(reads))


def _row_security(
    catalog: _Catalog, rule: Rule, leaves: tuple[Leaf, ...], parent: _Relation | None
) -> Iterator[Finding]:
    oids = [leaf.oid for leaf in leaves] + ([parent.oid] if parent else [])
    for name in catalog.hides_rows(oids):
        yield _refusal(
            f"Row-level security on {name} may hide rows from this role, and a hidden parent row makes an orphan.",
            "Use a role with BYPASSRLS.",
        )


def _blast_radius(catalog: _Catalog, rule: Rule, relation: _Relation, leaves: tuple[Leaf, ...]) -> Iterator[Finding]:
    start = catalog.family([leaf.oid for leaf in leaves]) | {relation.oid}
    keys = catalog.foreign_keys()
    reached: set[int] = set()
    paths = [(oid, str(rule.table)) for oid in start]
    deleting = isinstance(rule.action, Delete)
    changed = None if isinstance(rule.action, Delete) else relation.columns[rule.action.column].number
    own = {mine.oid for table in rule.may_touch if (mine := catalog.relation(table))}
    told: set[str] = set()
    while paths:
        parent, path = paths.pop(0)
        for key in keys:
            if key.parent != parent or (changed is not None and changed not in key.key):
                continue
            action = key.on_delete if deleting else key.on_update
            name = f"{key.child_name} ({key.name}, on {'delete' if deleting else 'update'} {_ACTIONS[action]})"
            if action in "ar":
                if parent in start and name not in told:
                    told.add(name)
                    late = ", checked at commit" if key.deferred else ""
                    yield Finding(
                        Severity.WARNING,
                        f"{name} refers to {rule.table}{late}: rows that it refers to can't be deleted and stay.",
                    )
                continue
            if key.child not in own and name not in told:
                told.add(name)
                yield _refusal(
                    f"{rule.name} would reach {key.child_name}, which the rule does not name as its own: {path} ← {name}.",
                    "Drop that foreign key's action, or name the table in the rule's may_touch.",
                )
            # What a cascade deletes may cascade further; what it sets to null or a default does not.
            if action == "c" and deleting and key.child not in reached and key.child not in start:
                reached.add(key.child)
                paths.append((key.child, f"{path} ← {name}"))
    for rewrite, name in catalog.rewrite_rules([*start], rule.action):
        yield _refusal(f"The rewrite rule {rewrite} on {name} changes what the statement does.", "Drop the rule.")


def _triggers(rule: Rule, triggers: list[_Trigger]) -> Iterator[Finding]:
    for trigger in triggers:
        if trigger.may_veto:
            yield Finding(Severity.WARNING, f"The trigger {trigger.name} on {rule.table} may keep rows or do more.")
        else:
            yield Finding(Severity.NOTE, f"The trigger {trigger.name} on {rule.table} fires on what the rule does.")


def _publications(catalog: _Catalog, rule: Rule, leaves: tuple[Leaf, ...]) -> Iterator[Finding]:
    for table, publication in catalog.unidentified_published([leaf.oid for leaf in leaves], rule.action):
        yield _refusal(
            f"{table} is published by {publication} without a replica identity: the server refuses every such write.",
            f"alter table {table} replica identity full; or give it a primary key.",
        )
