"""What is checked before a sweep may write.

Nearly everything is read from the catalog, as the database is now. A *refusal* keeps the rule from touching anything; a
*warning* and a *note* are told and let it run.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from psycopg import errors

from cleanup_pipeline.postgres import Limits, Session
from cleanup_pipeline.rules import Close, Delete, Reference, Rule, Table
from cleanup_pipeline.sweep.blast_radius import blast_radius, reached_by_deleting, triggers_fired, updates_within
from cleanup_pipeline.sweep.catalog import KINDS, Catalog, ForeignKey, Leaf, Relation, Trigger
from cleanup_pipeline.sweep.finding import Finding, RefusedError, Severity
from cleanup_pipeline.sweep.privileges import grant_database, grant_function, grant_schema, grants, needed, quoted
from cleanup_pipeline.sweep.statements import Statements
from cleanup_pipeline.sweep.target import Target
from cleanup_pipeline.sweep.trial import try_out

OLDEST_SERVER = 140000
_TIMESTAMP = "timestamp with time zone"
_MAX_CLOCK_DIFFERENCE = timedelta(minutes=5)
_CATALOG_LIMITS = Limits(statement_s=10.0)
_NO_WAITING = Limits(statement_s=10.0, lock_s=0.001)
_LONG_TRANSACTION_MINUTES = 10
_MANY_DEAD_ROWS = 10_000
_LARGE_DEAD_SHARE = 0.2


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


def accept(report: Report) -> Target:
    """The rule as it is to be carried out; raises `RefusedError` with the first refusal (and how many more)."""
    if report.refusals:
        first, *more = report.refusals
        raise RefusedError(str(first) + (f" ({len(more)} more: cleanup-pipeline doctor)" if more else ""))
    assert report.target is not None  # noqa: S101 -- without a refusal there is a target
    return report.target


def inspect(session: Session, rule: Rule, *, deep: bool = False) -> Report:
    """Look at everything that a sweep of `rule` would meet. Writes nothing, and waits for no lock.

    `deep`: what a foreign key guards is to be judged all the same, so that none counts as a guard.
    """
    report = Report(rule)
    try:
        _look_into(session, rule, report, deep=deep)
    except (errors.CharacterNotInRepertoire, errors.UntranslatableCharacter):
        report.target = None
        encoding = session.connection.info.parameter_status("server_encoding") or "unknown"
        report.findings.append(
            _refusal(
                f"The name of something around {rule.table} (a column, an index, a trigger, a table or key that refers "
                f"to it) can't be read: it is no UTF-8, and the database's encoding is {encoding}.",
                "Rename it.",
            )
        )
    return report


def _look_into(session: Session, rule: Rule, report: Report, *, deep: bool) -> None:
    with session.transaction(_CATALOG_LIMITS) as transaction:
        catalog = Catalog(transaction)
        report.findings += _server(catalog, session)
        table = catalog.relation(rule.table)
        report.findings += _kind(table, rule.table, swept=True)
        parent = catalog.relation(rule.orphan_of.parent) if rule.orphan_of else None
        if rule.orphan_of:
            report.findings += _kind(parent, rule.orphan_of.parent, swept=False)
        if report.refusals or table is None:
            return
        report.findings += _columns(rule, table)
        guard = None
        if rule.orphan_of and parent is not None:
            guard = None if deep else catalog.guard(rule.orphan_of, table, parent)
            if guard is None:  # else nothing is compared
                report.findings += _reference(rule.orphan_of, rule.table, table, parent)
        if report.refusals:
            return
        leaves = catalog.leaves(table)
        family = [table.oid]
        if not table.stands_alone:
            family = sorted(catalog.family([leaf.oid for leaf in leaves]) | {table.oid})
            report.findings += _tables_apart(catalog, table, "can be swept")
            report.findings += _partition_key(catalog, rule, family)
        if parent is not None and not parent.stands_alone:
            report.findings += _tables_apart(catalog, parent, "are sure to show all of their rows")
        report.findings += _privileges(catalog, rule, table, leaves, parent)
        report.findings += _row_security(catalog, leaves, parent)
        keys = catalog.foreign_keys(family)
        updates = updates_within(catalog, family, keys)
        report.findings += blast_radius(catalog, rule, family, keys, updates)
        triggers = triggers_fired(catalog, rule, [leaf.oid for leaf in leaves], updates)
        report.findings += _triggers(rule, triggers)
        deferred = catalog.deferred([leaf.oid for leaf in leaves], rule.action)
        report.findings += _deferred(rule, deferred)
        report.findings += _guard(rule, guard)
        parent_is_indexed = bool(
            rule.orphan_of and parent and (guard or catalog.is_indexed(parent, rule.orphan_of.key))
        )
        if guard is None:
            report.findings += _event_triggers(catalog)
            if rule.orphan_of and parent and not parent_is_indexed:
                report.findings += [_parent_without_an_index(rule, rule.orphan_of, parent)]
            report.findings += _advice(catalog, rule, family, leaves, keys)
            report.findings += _standbys(catalog)
        unindexed = _unindexed_keys(keys, family)
        report.target = Target(
            rule=rule,
            leaves=leaves,
            told_by=rule.action.value if isinstance(rule.action, Close) else rule.age.columns[0] if rule.age else "",
            age_columns=tuple(c for c in (rule.age.columns if rule.age else ()) if c in table.columns),
            age_may_be_null=bool(rule.age)
            and all(table.columns[c].nullable for c in (rule.age.columns if rule.age else ()) if c in table.columns),
            reference_type=table.columns[rule.orphan_of.column].type if rule.orphan_of else None,
            parent_is_indexed=parent_is_indexed,
            guard=guard[0] if guard else None,
            family=tuple(family),
            parent=parent.oid if parent else None,
            known_keys=tuple(key.oid for key in keys if key.enforced),
            known_triggers=tuple(catalog.known_triggers([leaf.oid for leaf in leaves], rule.action)),
            defers=bool(deferred),
            triggers=tuple(dict.fromkeys(trigger.name for trigger in triggers)),
        )
    if unindexed:
        pages = _pages(session, [key.child for key in unindexed])
        report.findings += _scans(rule, unindexed, pages)
        if isinstance(rule.action, Delete):
            report.target = replace(report.target, scanned_pages=sum(pages[key.child] for key in unindexed))
    if not report.refusals and guard is None:
        age = rule.age.default if rule.age else None
        report.findings += try_out(session, Statements(report.target, datetime.now(UTC), age))


def _refusal(what: str, do: str = "") -> Finding:
    return Finding(Severity.REFUSAL, what, do)


def _server(catalog: Catalog, session: Session) -> Iterator[Finding]:
    if session.server_version < OLDEST_SERVER:
        yield _refusal(
            f"The server is PostgreSQL {session.server_version // 10000}; 14 or later is needed (scans by block range)."
        )
    standby, read_only, replication_role, now = catalog.server()
    if standby:
        yield _refusal("The server is a standby and can't be written to.", "Point the URL at the primary.")
    if read_only:
        yield _refusal(
            "Transactions are read-only here (default_transaction_read_only, by role, database or URL).",
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


def _kind(relation: Relation | None, table: Table, *, swept: bool) -> Iterator[Finding]:
    if relation is None:
        yield _refusal(f"The table {table} does not exist in this database.", "Check the database in the URL.")
    elif relation.kind not in ("r", "p"):
        yield _refusal(f"{table} is {KINDS.get(relation.kind, 'no table')}; a table was expected.")
    elif swept and relation.has_heirs:
        yield _refusal(f"{table} has tables that inherit from it and are no partitions; they can't be swept safely.")


def _tables_apart(catalog: Catalog, table: Relation, what_others: str) -> Iterator[Finding]:
    for name, kind in catalog.tables_apart(table.oid):
        yield _refusal(
            f"{name}, a part of {table.table}, is {KINDS.get(kind, 'no table')}; only this database's own tables "
            f"{what_others}."
        )


def _columns(rule: Rule, table: Relation) -> Iterator[Finding]:
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
        elif found.is_domain:
            yield _refusal(
                f"The column {table.table}.{name} is of a domain over {type_}: an operator or function that was made "
                "for the domain would be used in place of the server's own.",
                f"Give it the type {type_} itself.",
            )


def _reference(reference: Reference, name: Table, table: Relation, parent: Relation) -> Iterator[Finding]:
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
    elif not (column.comparable and key.comparable):
        yield _refusal(
            f"{here} is of type {column.type}: only of a type that is built in, and that a b-tree index can hold, is "
            "equality known to be safe."
        )


def _privileges(
    catalog: Catalog, rule: Rule, table: Relation, leaves: tuple[Leaf, ...], parent: Relation | None
) -> Iterator[Finding]:
    role, database, may_make_temporary_tables = catalog.identity()
    tables = [leaf.table for leaf in leaves] + ([parent.table] if parent else [])
    for schema in catalog.missing_schemas(table.schema for table in tables):
        yield _refusal(f"The role {role} may not use the schema {schema}.", grant_schema(schema, role))
    missing = catalog.missing(needed(rule, table, leaves, parent))
    if missing:
        lacks = [f"{p.name}{f' ({p.column})' if p.column else ''} on {p.table}" for p in missing]
        yield _refusal(f"The role {role} lacks {', '.join(lacks)}.", " ".join(grants(missing, role)))
    if not may_make_temporary_tables:
        yield _refusal(
            f"The role {role} may not make temporary tables in {database}, which hold what was judged.",
            grant_database(database, role),
        )
    if isinstance(rule.action, Close):
        for function in catalog.functions_barred(role, [leaf.oid for leaf in leaves]):
            yield _refusal(
                f"The role {role} may not execute {function}, which a check, an index or a generated column of "
                f"{rule.table} calls on every such write.",
                grant_function(function, role),
            )


def _event_triggers(catalog: Catalog) -> Iterator[Finding]:
    for name in catalog.event_triggers():
        yield Finding(
            Severity.NOTE, f"The event trigger {name} fires on the sweep's temporary table, and may forbid to make it."
        )


def _row_security(catalog: Catalog, leaves: tuple[Leaf, ...], parent: Relation | None) -> Iterator[Finding]:
    oids = [leaf.oid for leaf in leaves] + ([parent.oid] if parent else [])
    harm = "a hidden parent row makes an orphan" if parent else "a row that is hidden stays, however old it is"
    for name in catalog.hides_rows(oids):
        yield _refusal(
            f"Row-level security on {name} may hide rows from this role, and {harm}.",
            "Use a role with BYPASSRLS.",
        )


def _triggers(rule: Rule, triggers: list[Trigger]) -> Iterator[Finding]:
    # A partition has a trigger of its own for each of its table's.
    for name, may_veto in dict.fromkeys((trigger.name, trigger.may_veto) for trigger in triggers):
        if may_veto:
            yield Finding(Severity.WARNING, f"The trigger {name} on {rule.table} may keep rows or do more.")
        else:
            yield Finding(Severity.NOTE, f"The trigger {name} on {rule.table} fires on what the rule does.")


def _deferred(rule: Rule, deferred: list[str]) -> Iterator[Finding]:
    for name in deferred:
        yield Finding(
            Severity.NOTE, f"{name} on {rule.table} is deferred; what it checks is checked before a window's commit."
        )


def _partition_key(catalog: Catalog, rule: Rule, family: list[int]) -> Iterator[Finding]:
    if isinstance(rule.action, Close):
        for name in catalog.partitioned_by(family, rule.action.column):
            yield _refusal(
                f"{name} is partitioned by {rule.action.column}: a row that is closed would belong to another "
                "partition, and rows are written where they are."
            )


def _guard(rule: Rule, guard: tuple[str, str] | None) -> Iterator[Finding]:
    reference = rule.orphan_of
    if guard is None or reference is None:
        return
    name, on_delete = guard
    what = f"Guarded by {name}: a row of {rule.table} can't refer to a row of {reference.parent} that does not exist."
    if on_delete == "n":
        what += f" Rows whose parent was deleted show as {reference.column} is null, and are kept."
    yield Finding(Severity.NOTE, what)


def _parent_without_an_index(rule: Rule, reference: Reference, parent: Relation) -> Finding:
    where = f"{quoted(reference.parent.schema, reference.parent.name)} ({quoted(reference.key)});"
    do = f"create unique index concurrently on {where}"
    if parent.kind == "p":  # which takes none concurrently, and a unique one only with the columns it is divided by
        do = f"create index concurrently on each of the partitions, then create index on {where}"
    return Finding(
        Severity.WARNING,
        f"No valid index of all rows begins with {reference.key} of {reference.parent}: {rule.table} can't be judged "
        "slice by slice, and is judged as a whole.",
        do,
    )


def _unindexed_keys(keys: list[ForeignKey], family: list[int]) -> list[ForeignKey]:
    """One for each table that is scanned; where partitions are swept, a key of its own points at each of them."""
    found = (key for key in keys if key.parent in family and key.child_holds_rows and key.enforced and not key.indexed)
    return list({(key.child, key.child_columns): key for key in found}.values())


def _pages(session: Session, oids: list[int]) -> dict[int, int]:
    """How many blocks each table has; where one of them is locked, how many they had when they were last analyzed."""
    try:
        with session.transaction(_NO_WAITING) as transaction:
            return Catalog(transaction).pages_of_each(oids)
    except errors.LockNotAvailable:
        with session.transaction(_NO_WAITING) as transaction:
            return Catalog(transaction).pages_when_analyzed(oids)


def _scans(rule: Rule, keys: list[ForeignKey], pages: dict[int, int]) -> Iterator[Finding]:
    deletes = isinstance(rule.action, Delete)
    for key in keys:
        each = pages[key.child]
        cost = f": {1_000 * each:,} for 1,000 rows" if deletes else " (this rule deletes none)"
        yield Finding(
            Severity.WARNING if deletes else Severity.NOTE,
            f"{key.child_name} ({key.name}) refers to {rule.table} without an index on {key.columns}: each row that is "
            f"deleted there scans its {each:,} pages{cost}.",
            f"create index concurrently on {key.child_name} ({key.columns});",
        )


def _advice(
    catalog: Catalog, rule: Rule, family: list[int], leaves: tuple[Leaf, ...], keys: list[ForeignKey]
) -> Iterator[Finding]:
    oids = [leaf.oid for leaf in leaves]
    if isinstance(rule.action, Close) and (reached := reached_by_deleting(family, keys)):
        yield Finding(
            Severity.NOTE,
            f"Deleting rows of {rule.table} would reach {', '.join(reached)}. This rule deletes none.",
        )
    dead, live = catalog.dead_rows(oids)
    if dead > max(_MANY_DEAD_ROWS, live * _LARGE_DEAD_SHARE):
        yield Finding(
            Severity.NOTE,
            f"{dead:,} dead rows have piled up in {rule.table}.",
            f"vacuum {quoted(rule.table.schema, rule.table.name)};",
        )
    number, since, hidden = catalog.long_transactions(_LONG_TRANSACTION_MINUTES)
    if number:
        yield Finding(
            Severity.NOTE,
            f"{number:,} transactions are open for more than {_LONG_TRANSACTION_MINUTES} minutes, the oldest since "
            f"{since} UTC: until they end, vacuum can't free what is deleted.",
            "See pg_stat_activity.",
        )
    if hidden:
        role, *_ = catalog.identity()
        yield Finding(
            Severity.NOTE,
            f"Since when {hidden:,} transactions of others are open is unknown: {role} may not see it. Until they end, "
            "vacuum can't free what is deleted.",
            f"grant pg_read_all_stats to {quoted(role)}; would show it, and also what others' queries are.",
        )


def _standbys(catalog: Catalog) -> Iterator[Finding]:
    if hidden := catalog.standbys().hidden:
        role, *_ = catalog.identity()
        yield Finding(
            Severity.NOTE,
            f"How far {hidden:,} standbys are behind can't be seen by {role}: the sweep will not wait for them.",
            f"grant pg_monitor to {quoted(role)}; would show it, and also what others' queries are.",
        )
