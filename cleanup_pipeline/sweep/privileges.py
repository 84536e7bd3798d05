"""What a role must be granted: exactly what the rules do, and what the method needs.

The method needs more than it shows: `ctid` is a column with a privilege of its own, a row lock takes UPDATE on some
column even where rows are only deleted, and what was judged is kept in a temporary table.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from psycopg import sql

from cleanup_pipeline.rules import Delete, Rule, Table, escaped
from cleanup_pipeline.sweep.catalog import Leaf, Relation

_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")
# PostgreSQL's words that name no column or role unless they are quoted.
_RESERVED_WORDS = """
    all analyse analyze and any array as asc asymmetric authorization binary both case cast check collate collation
    column concurrently constraint create cross current_catalog current_date current_role current_schema current_time
    current_timestamp current_user default deferrable desc distinct do else end except false fetch for foreign freeze
    from full grant group having ilike in initially inner intersect into is isnull join lateral leading left like limit
    localtime localtimestamp natural not notnull null offset on only or order outer overlaps placing primary references
    returning right select session_user similar some symmetric system_user table tablesample then to trailing true union
    unique user using variadic verbose when where window with
"""
_RESERVED = frozenset(_RESERVED_WORDS.split())


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
        f"on {quoted(table.schema, table.name)} to {quoted(role)};"
        for table, named in by_table.items()
    ]


def grant_schema(schema: str, role: str) -> str:
    """The statement that lets `role` use a schema."""
    return f"grant usage on schema {quoted(schema)} to {quoted(role)};"


def grant_database(database: str, role: str) -> str:
    """The statement that lets `role` connect, and make temporary tables."""
    return f"grant connect, temporary on database {quoted(database)} to {quoted(role)};"


def grant_function(function: str, role: str) -> str:
    """The statement that lets `role` execute a function (its name and arguments, quoted)."""
    return f"grant execute on function {function} to {quoted(role)};"


def _clause(name: str, columns: list[str]) -> str:
    return name.lower() + (f" ({', '.join(quoted(column) for column in columns)})" if columns else "")


def quoted(*names: str) -> str:
    """A name, or one with its schema before it, quoted only where needed, and on one line."""
    return ".".join(name if _PLAIN.fullmatch(name) and name not in _RESERVED else _in_quotes(name) for name in names)


def _in_quotes(name: str) -> str:
    if name == escaped(name):
        return sql.Identifier(name).as_string()
    doubled = name.replace("\\", "\\\\").replace('"', '""')
    return 'U&"' + "".join(char if char == escaped(char) else f"\\{ord(char):04x}" for char in doubled) + '"'
