"""What a role must be granted: exactly what the rules do, and what the method needs.

The method needs more than it shows: `ctid` is a column with a privilege of its own, a row lock takes UPDATE on some
column even where rows are only deleted, and what was judged is kept in a temporary table.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from psycopg import sql

from cleanup_pipeline.rules import Delete, Rule, Table
from cleanup_pipeline.sweep.catalog import Leaf, Relation


@dataclass(frozen=True, slots=True)
class Privilege:
    """SELECT or UPDATE of a column, or DELETE (then `column` is None).

    `to_lock`: UPDATE is needed to lock rows, for which that of any column does.
    """

    name: str
    oid: int
    table: Table
    column: str | None = None
    to_lock: bool = False


def columns_read(rule: Rule, existing: Iterable[str]) -> list[str]:
    """The columns of its table that a rule's statements read, without `ctid`."""
    there = set(existing)
    reads = [*rule.columns, *(column for column in (rule.age.columns if rule.age else ()) if column in there)]
    if rule.orphan_of:
        reads.append(rule.orphan_of.column)
    return list(dict.fromkeys(reads))


def needed(rule: Rule, table: Relation, leaves: Sequence[Leaf], parent: Relation | None) -> list[Privilege]:
    """Everything that a sweep of `rule` needs; partitions are addressed, and so granted, one by one."""
    reads = columns_read(rule, table.columns)
    privileges = []
    for leaf in leaves:
        privileges += [Privilege("SELECT", leaf.oid, leaf.table, column) for column in ("ctid", *reads)]
        if isinstance(rule.action, Delete):
            privileges.append(Privilege("DELETE", leaf.oid, leaf.table))
            privileges.append(Privilege("UPDATE", leaf.oid, leaf.table, reads[0], to_lock=True))
        else:
            privileges.append(Privilege("UPDATE", leaf.oid, leaf.table, rule.action.column))
    if rule.orphan_of and parent:
        privileges.append(Privilege("SELECT", parent.oid, parent.table, rule.orphan_of.key))
    return privileges


def grants(privileges: Iterable[Privilege], role: str) -> list[str]:
    """The statements that grant them to `role` (its plain name), one a table."""
    by_table: dict[Table, dict[str, list[str]]] = {}
    for privilege in privileges:
        columns = by_table.setdefault(privilege.table, {}).setdefault(privilege.name, [])
        if privilege.column and privilege.column not in columns:
            columns.append(privilege.column)
    return [
        f"grant {', '.join(_clause(name, columns) for name, columns in named.items())} "
        f"on {_quoted(table.schema, table.name)} to {_quoted(role)};"
        for table, named in by_table.items()
    ]


def grant_schema(schema: str, role: str) -> str:
    """The statement that lets `role` use a schema."""
    return f"grant usage on schema {_quoted(schema)} to {_quoted(role)};"


def grant_database(database: str, role: str) -> str:
    """The statement that lets `role` connect, and make temporary tables."""
    return f"grant connect, temporary on database {_quoted(database)} to {_quoted(role)};"


def _clause(name: str, columns: list[str]) -> str:
    return name.lower() + (f" ({', '.join(_quoted(column) for column in columns)})" if columns else "")


def _quoted(*names: str) -> str:
    """Quoted only where that is needed, as a person would write it."""
    return ".".join(
        name if name.isidentifier() and name.islower() and name.isascii() else sql.Identifier(name).as_string()
        for name in names
    )
