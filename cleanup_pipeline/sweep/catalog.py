"""Questions to the system catalog: what a table is, who may do what with it, and what a write to it would set off."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, LiteralString

from psycopg import sql

from cleanup_pipeline.postgres import Transaction
from cleanup_pipeline.rules import Close, Delete, Reference, Table, escaped

if TYPE_CHECKING:
    from cleanup_pipeline.sweep.privileges import Privilege


@dataclass(frozen=True, slots=True)
class Leaf:
    """A table that holds rows itself: a plain table, or a partition."""

    oid: int
    table: Table
    is_partition: bool = False


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its type and collation, of a domain the base type.

    `comparable`: the type is one of pg_catalog's own, and a b-tree may hold it: its `=` tells all values apart.
    """

    number: int
    type: str
    collation: int
    comparable: bool
    is_domain: bool
    nullable: bool


@dataclass(frozen=True)
class Relation:
    """A relation; `kind` is pg_class.relkind, `has_heirs` is about tables that inherit and are no partitions."""

    oid: int
    table: Table
    kind: str
    has_heirs: bool
    is_partition: bool
    columns: dict[str, Column]

    @property
    def stands_alone(self) -> bool:
        """Whether it has neither partitions nor heirs, and is no partition."""
        return self.kind == "r" and not (self.has_heirs or self.is_partition)


@dataclass(frozen=True, slots=True)
class Trigger:
    """An enabled trigger of the app's on `table`; `may_veto`: it runs before a row is written, and may change it.

    `columns` are those of which an update has to name one for it to fire; none: any update.
    """

    table: int
    name: str
    may_veto: bool
    columns: frozenset[int]


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """A foreign key of `child` that points at `key` of `parent`; the actions are pg_constraint's letters.

    `child_columns` are the child's, and `columns` the same, quoted and separated by commas; `indexed`: a valid index of
    it begins with one of them; without one each deleted row of the parent scans the child. `child_holds_rows`: it is
    not partitioned (its partitions have keys of their own, each of them named by one as well). `of_primary`: it points
    at the parent's primary key, which is one column. One that is not `enforced` does nothing.
    """

    oid: int
    name: str
    child: int
    child_name: str
    parent: int
    key: tuple[int, ...]
    on_delete: str
    on_update: str
    deferred: bool
    child_columns: tuple[int, ...]
    columns: str
    child_holds_rows: bool
    indexed: bool
    of_primary: bool
    enforced: bool


@dataclass(frozen=True, slots=True)
class Standbys:
    """The server's standbys: how far it has written and the last of them has replayed (in bytes of WAL, ever).

    `replayed` is None where there is none that we see, `lag_s` what the server says the last is behind, in seconds.
    `hidden` are connections of which a role without pg_monitor is shown no more than that they are there.
    """

    written: int
    replayed: int | None
    lag_s: float
    hidden: int


# Its own row's version and its function's: `create or replace` keeps both oids.
TRIGGER_AS_IT_IS = sql.SQL("pg_catalog.format('%s %s %s', t.oid, t.xmin, f.xmin)")
ACTIONS = {"c": "cascade", "n": "set null", "d": "set default", "a": "no action", "r": "restrict"}
KINDS = {"v": "a view", "m": "a materialized view", "f": "a foreign table", "S": "a sequence", "c": "a composite type"}


class Catalog:
    """Questions to the system catalog, within one transaction.

    `pages`, `size`, `indexes_on` and `standbys` are asked beside rows of the app's too, where pg_catalog is not alone.
    """

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    def _rows(self, query: str, **values: Any) -> list[tuple[Any, ...]]:
        """Run a query with `values` in its places: as literals, or as the SQL that they are."""
        parts = {
            name: value if isinstance(value, sql.Composable) else sql.Literal(value) for name, value in values.items()
        }
        return self._transaction.rows(sql.SQL(query).format(**parts))

    def server(self) -> tuple[bool, bool, str, datetime]:
        """Whether it is a standby, whether transactions are read-only, the replication role, and its clock."""
        ((standby, read_only, role, now),) = self._rows(
            """
            select pg_is_in_recovery(), current_setting('default_transaction_read_only')::bool,
                   current_setting('session_replication_role'), clock_timestamp()
            """
        )
        return standby, read_only, role, now

    def relation(self, table: Table) -> Relation | None:
        """The relation of that name; None where there is none."""
        found = self._rows(
            """
            select c.oid::bigint, c.relkind::text,
                   exists (
                       select from pg_inherits i
                       join pg_class heir on heir.oid = i.inhrelid
                       where i.inhparent = c.oid and not heir.relispartition
                   ),
                   c.relispartition
            from pg_class c
            join pg_namespace n on n.oid = c.relnamespace
            where n.nspname = {schema} and c.relname = {name}
            """,
            schema=table.schema,
            name=table.name,
        )
        if not found:
            return None
        oid, kind, has_heirs, is_partition = found[0]
        columns = self._rows(
            """
            select a.attname, a.attnum, format_type(t.oid, -1), a.attcollation::bigint,
                   t.typtype = 'b' and t.typnamespace = 'pg_catalog'::regnamespace and exists (
                       select from pg_opclass o
                       join pg_am m on m.oid = o.opcmethod and m.amname = 'btree'
                       where o.opcdefault and (o.opcintype = t.oid or exists (
                           -- As varchar is compared: as text.
                           select from pg_cast
                           where castsource = t.oid and casttarget = o.opcintype
                             and castmethod = 'b' and castcontext = 'i'
                       ))
                   ),
                   declared.typbasetype <> 0, not a.attnotnull
            from pg_attribute a
            join pg_type declared on declared.oid = a.atttypid
            join pg_type t on t.oid = coalesce(nullif(declared.typbasetype, 0), declared.oid)
            where a.attrelid = {oid}::oid and a.attnum > 0 and not a.attisdropped
            """,
            oid=oid,
        )
        return Relation(oid, table, kind, has_heirs, is_partition, {name: Column(*rest) for name, *rest in columns})

    def leaves(self, table: Relation) -> tuple[Leaf, ...]:
        """The tables that hold its rows: itself, or its partitions by name."""
        if table.kind != "p":
            return (Leaf(table.oid, table.table, is_partition=table.is_partition),)
        return tuple(
            Leaf(oid, Table(name, schema), is_partition=True)
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

    def tables_apart(self, oid: int) -> list[tuple[str, str]]:
        """The partitions and heirs of a table that hold no rows of this database, and their kind (pg_class.relkind)."""
        return [
            (name, kind)
            for name, kind in self._rows(
                """
                with recursive tree (oid) as (
                    select {oid}::oid
                    union
                    select i.inhrelid from pg_inherits i join tree t on t.oid = i.inhparent
                )
                select c.oid::regclass::text, c.relkind::text
                from tree join pg_class c using (oid)
                where c.relkind not in ('r', 'p')
                order by 1
                """,
                oid=oid,
            )
        ]

    def is_indexed(self, relation: Relation, column: str) -> bool:
        """Whether a valid index over all rows begins with the column."""
        ((indexed,),) = self._rows(
            """
            select exists (
                select from pg_index
                join pg_class o on o.oid = indexrelid
                join pg_am m on m.oid = o.relam and m.amname in ('btree', 'hash')
                where indrelid = {oid}::oid and indisvalid and indpred is null and indkey[0] = {column}
            )
            """,
            oid=relation.oid,
            column=relation.columns[column].number,
        )
        return bool(indexed)

    def indexes_on(self, oid: int, column: str) -> list[tuple[str, bool]]:
        """The indexes of a table that begin with the column, and whether each is valid."""
        return [
            (name, valid)
            for name, valid in self._rows(
                """
                select i.indexrelid::regclass::text, i.indisvalid
                from pg_index i
                join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
                where i.indrelid = {oid}::oid and a.attname = {column}
                order by 1
                """,
                oid=oid,
                column=column,
            )
        ]

    def partitioned_by(self, oids: list[int], column: str) -> list[str]:
        """Those of the tables of which the column is part of the partition key, also within an expression."""
        return [
            name
            for (name,) in self._rows(
                """
                select d.objid::regclass::text
                from pg_partitioned_table p
                join pg_attribute a on a.attrelid = p.partrelid and a.attname = {column}
                -- A column of the key can't be dropped, since the catalog has it depend on its own table.
                join pg_depend d on d.classid = 'pg_class'::regclass and d.objid = p.partrelid
                                and d.objsubid = a.attnum and d.refobjid = p.partrelid and d.refobjsubid = 0
                where p.partrelid = any({oids}::bigint[]::oid[])
                order by 1
                """,
                oids=oids,
                column=column,
            )
        ]

    def pages(self, oids: list[int]) -> int:
        """How many blocks these relations have. Waits where one is locked."""
        ((pages,),) = self._rows(
            """
            select coalesce(sum(pg_relation_size(oid::oid::regclass)), 0)::bigint
                   / current_setting('block_size')::bigint
            from pg_catalog.unnest({oids}::bigint[]) as oid
            """,
            oids=oids,
        )
        return int(pages)

    def pages_of_each(self, oids: list[int]) -> dict[int, int]:
        """The same for each of them."""
        return dict(
            self._rows(
                """
                select oid, coalesce(pg_relation_size(oid::oid::regclass), 0) / current_setting('block_size')::bigint
                from unnest({oids}::bigint[]) as oid
                """,
                oids=oids,
            )
        )

    def pages_when_analyzed(self, oids: list[int]) -> dict[int, int]:
        """How many blocks each of them had when it was last looked at by vacuum or analyze. Waits for no lock."""
        return dict(
            self._rows(
                "select oid::bigint, relpages from pg_class where oid = any({oids}::bigint[]::oid[])",
                oids=oids,
            )
        )

    def size(self, oids: list[int]) -> tuple[int, int]:
        """How many rows these tables have by the planner's estimate, and their bytes, indexes and TOAST included."""
        ((rows, size),) = self._rows(
            """
            select coalesce(sum(case when c.reltuples < 0::real then s.n_live_tup else c.reltuples end), 0)::bigint,
                   coalesce(sum(pg_total_relation_size(c.oid::regclass)), 0)::bigint
            from pg_class c
            left join pg_stat_user_tables s on s.relid = c.oid
            where c.oid = any({oids}::bigint[]::oid[])
            """,
            oids=oids,
        )
        return rows, size

    def counted_rows(self, oids: list[int]) -> int | None:
        """How many rows the statistics count by now; None where vacuum or analyze gave them nothing to count from."""
        ((rows, are_counted),) = self._rows(
            """
            select sum(n_live_tup)::bigint,
                   bool_and(coalesce(last_vacuum, last_autovacuum, last_analyze, last_autoanalyze) is not null)
            from pg_stat_user_tables
            where relid = any({oids}::bigint[]::oid[])
            """,
            oids=oids,
        )
        return int(rows) if are_counted else None

    def dead_rows(self, oids: list[int]) -> tuple[int, int]:
        """How many dead and live rows the statistics know of."""
        ((dead, live),) = self._rows(
            """
            select coalesce(sum(pg_stat_get_dead_tuples(oid::oid)), 0)::bigint,
                   coalesce(sum(pg_stat_get_live_tuples(oid::oid)), 0)::bigint
            from unnest({oids}::bigint[]) as oid
            """,
            oids=oids,
        )
        return dead, live

    def long_transactions(self, minutes: int) -> tuple[int, str | None, int]:
        """How many other transactions are open or prepared for longer than that, and since when the oldest is.

        Last, how many are open of which this role is not shown since when: those that keep vacuum from anything.
        """
        ((number, since, hidden),) = self._rows(
            """
            select count(*) filter (where began < clock_timestamp() - {minutes} * interval '1 minute'),
                   to_char(min(began), 'YYYY-MM-DD HH24:MI'), count(*) filter (where hidden)
            from (select xact_start,
                         query = '<insufficient privilege>' and coalesce(backend_xid, backend_xmin) is not null
                         and pid not in (select pid from pg_stat_replication)
                  -- The view itself would also look every session's user and database up.
                  from pg_stat_get_activity(null) where pid <> pg_backend_pid()
                  union all select prepared, false from pg_prepared_xacts) as transactions (began, hidden)
            """,
            minutes=minutes,
        )
        return number, since, hidden

    def locked_tables(self) -> list[str]:
        """The tables of this database that other sessions hold so that nobody can read them, or lock their rows."""
        return [
            name
            for (name,) in self._rows(
                """
                select distinct n.nspname || '.' || c.relname
                from pg_locks l
                join pg_class c on c.oid = l.relation and c.relkind in ('r', 'p')
                join pg_namespace n on n.oid = c.relnamespace
                where l.granted and l.mode in ('ExclusiveLock', 'AccessExclusiveLock') and l.pid <> pg_backend_pid()
                  and l.database = (select oid from pg_database where datname = current_database())
                order by 1
                """
            )
        ]

    def standbys(self) -> Standbys:
        """How far they are. A logical subscriber is no standby, nor is a backup under way."""
        ((written, replayed, lag_s, hidden),) = self._rows(
            """
            select pg_current_wal_lsn() - '0/0', min(r.replay_lsn) - '0/0',
                   coalesce(extract(epoch from max(r.replay_lag)), 0)::double precision,
                   count(*) filter (where r.state is null)
            from pg_stat_replication r
            where r.state is distinct from 'backup'
              and not exists (select from pg_replication_slots s where s.active_pid = r.pid and s.slot_type = 'logical')
            """
        )
        return Standbys(int(written), None if replayed is None else int(replayed), lag_s, hidden)

    def guard(self, reference: Reference, table: Relation, parent: Relation) -> tuple[str, str] | None:
        """The foreign key that makes an orphan impossible: validated, enforced, and all of its triggers enabled.

        Its name, and what it does on delete (pg_constraint's letter).
        """
        if reference.column not in table.columns or reference.key not in parent.columns:
            return None
        found = self._rows(
            """
            with recursive c as (
                select * from pg_constraint
                where contype = 'f' and conrelid = {table}::oid and confrelid = {parent}::oid
                  and conkey = array[{column}]::int2[] and confkey = array[{key}]::int2[]
            ), family (root, oid) as (
                select oid, oid from c
                union all
                select f.root, child.oid from family f join pg_constraint child on child.conparentid = f.oid
            )
            select c.conname, c.confdeltype::text
            from c
            where c.convalidated and {enforced}
              and not exists (
                  select from pg_trigger t
                  join family f on f.oid = t.tgconstraint
                  where f.root = c.oid and t.tgenabled not in ('O', 'A')
              )
            order by c.conname
            limit 1
            """,
            enforced=self._enforced,
            table=table.oid,
            parent=parent.oid,
            column=table.columns[reference.column].number,
            key=parent.columns[reference.key].number,
        )
        return found[0] if found else None

    @cached_property
    def _enforced(self) -> sql.SQL:
        """Whether a constraint `c` is enforced, in SQL: servers before 18 enforce each."""
        ((found,),) = self._rows(
            "select exists (select from pg_attribute where attrelid = 'pg_catalog.pg_constraint'::regclass"
            " and attname = 'conenforced')"
        )
        return sql.SQL("c.conenforced" if found else "true")

    def family(self, oids: list[int]) -> set[int]:
        """The tables, and the partitioned tables above them: a foreign key to either points at their rows."""
        return {
            oid
            for (oid,) in self._rows(
                """
                select oid::bigint from unnest({oids}::bigint[]) as oid
                union
                select a.relid::oid::bigint from unnest({oids}::bigint[]) as leaf,
                pg_partition_ancestors(leaf::oid::regclass) a where a.relid is not null
                """,
                oids=oids,
            )
        }

    def foreign_keys(self, oids: list[int]) -> list[ForeignKey]:
        """The foreign keys that point at these tables, or at a table that their actions may reach from there.

        Waits for no lock: it looks at no table itself.
        """
        return [
            ForeignKey(
                oid,
                _readable(name),
                child,
                _readable(called),
                parent,
                tuple(key),
                delete,
                update,
                late,
                tuple(columns),
                _readable(names),
                *rest,
            )
            for oid, name, child, called, parent, key, delete, update, late, columns, names, *rest in self._rows(
                """
                with recursive reached (oid) as (
                    select oid::oid from unnest({oids}::bigint[]) as oid
                    union
                    select c.conrelid
                    from pg_constraint c
                    join reached r on r.oid = c.confrelid
                    where c.contype = 'f' and (c.confdeltype in ('c', 'n', 'd') or c.confupdtype in ('c', 'n', 'd'))
                )
                select c.oid::bigint, {name}, c.conrelid::bigint,
                       {child}, c.confrelid::bigint,
                       c.confkey, c.confdeltype::text, c.confupdtype::text, c.condeferred, c.conkey,
                       (select {columns}
                        from unnest(c.conkey) with ordinality as k (number, place)
                        join pg_attribute a on a.attrelid = c.conrelid and a.attnum = k.number),
                       (select relkind <> 'p' from pg_class where pg_class.oid = c.conrelid),
                       exists (
                           select from pg_index i
                           join pg_class o on o.oid = i.indexrelid
                           join pg_am m on m.oid = o.relam and m.amname in ('btree', 'hash')
                           where i.indrelid = c.conrelid and i.indisvalid
                             -- What refers is not null. Printing the condition as SQL would wait for a lock.
                             and (i.indpred is null or substring(
                                 i.indpred::text from '^.NULLTEST :arg .VAR .*:varattno ([0-9]+) .* :nulltesttype 1 '
                             )::int2 = any(c.conkey))
                             and i.indkey[0] = any(c.conkey)
                       ),
                       exists (
                           select from pg_index
                           where indrelid = c.confrelid and indisprimary and indnkeyatts = 1
                             and c.confkey = array[indkey[0]]
                       ),
                       {enforced}
                from pg_constraint c
                where c.contype = 'f' and c.confrelid in (select oid from reached)
                order by c.conrelid::regclass::text, c.conname
                """,
                name=_bytes("c.conname"),
                child=_bytes("c.conrelid::regclass::text"),
                columns=_bytes("string_agg(quote_ident(a.attname), ', ' order by k.place)"),
                enforced=self._enforced,
                oids=oids,
            )
        ]

    def rewrite_rules(self, oids: list[int], *, deleting: bool) -> list[tuple[str, str]]:
        """The rewrite rules, with their tables, that change what a delete or an update does."""
        return [
            (name, table)
            for name, table in self._rows(
                """
                select rulename, ev_class::regclass::text from pg_rewrite
                where ev_class = any({oids}::bigint[]::oid[]) and ev_type = {event} and ev_enabled <> 'D'
                order by rulename
                """,
                oids=oids,
                event="4" if deleting else "2",
            )
        ]

    def triggers(self, oids: list[int], *, deleting: bool) -> list[Trigger]:
        """The app's enabled triggers for a delete or an update. Bits: 1 row, 2 before, 8 delete, 16 update."""
        return [
            Trigger(table, _readable(name), may_veto, frozenset(columns))
            for table, name, may_veto, columns in self._rows(
                """
                select tgrelid::bigint, {name}, tgtype & 3 = 3, tgattr::int2[]
                from pg_trigger
                where tgrelid = any({oids}::bigint[]::oid[]) and not tgisinternal and tgenabled in ('O', 'A')
                  and tgtype & {event} <> 0
                order by tgname
                """,
                name=_bytes("tgname"),
                oids=oids,
                event=8 if deleting else 16,
            )
        ]

    def known_triggers(self, oids: list[int], action: Delete | Close) -> list[str]:
        """The app's enabled triggers for a delete or an update as they are, whichever columns they are for."""
        return [
            trigger
            for (trigger,) in self._rows(
                """
                select {as_it_is} from pg_trigger t join pg_proc f on f.oid = tgfoid
                where tgrelid = any({oids}::bigint[]::oid[]) and not tgisinternal and tgenabled <> 'D'
                  and tgtype & {event} <> 0
                """,
                as_it_is=TRIGGER_AS_IT_IS,
                oids=oids,
                event=8 if isinstance(action, Delete) else 16,
            )
        ]

    def numbers(self, oids: list[int], column: str) -> dict[int, int]:
        """The column's number in each of the tables: partitions may have their columns in another order."""
        return dict(
            self._rows(
                """
                select attrelid::bigint, attnum from pg_attribute
                where attrelid = any({oids}::bigint[]::oid[]) and attname = {column}
                """,
                oids=oids,
                column=column,
            )
        )

    def generated(self, oids: list[int]) -> dict[int, dict[int, frozenset[int]]]:
        """Of each table that has any the generated columns, and from which other columns each is made."""
        found: dict[int, dict[int, frozenset[int]]] = {}
        for table, column, made_from in self._rows(
            """
            select a.attrelid::bigint, a.attnum,
                   array(
                       select distinct x.refobjsubid
                       from pg_depend x
                       -- Servers before 15 have the column itself depend on what it is made from.
                       where (x.classid, x.objid, x.objsubid) in (
                                 ('pg_attrdef'::regclass, d.oid, 0), ('pg_class'::regclass, a.attrelid, a.attnum)
                             )
                         and x.refclassid = 'pg_class'::regclass and x.refobjid = a.attrelid and x.refobjsubid > 0
                   )
            from pg_attribute a
            join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
            where a.attrelid = any({oids}::bigint[]::oid[]) and a.attgenerated <> '' and not a.attisdropped
            """,
            oids=oids,
        ):
            found.setdefault(table, {})[column] = frozenset(made_from) - {column}
        return found

    def deferred(self, oids: list[int], action: Delete | Close) -> list[str]:
        """The constraints and triggers that the rule sets off and that wait for the commit."""
        return [
            name
            for (name,) in self._rows(
                """
                select distinct coalesce(c.conname, t.tgname)
                from pg_trigger t
                left join pg_constraint c on c.oid = t.tgconstraint
                where t.tgrelid = any({oids}::bigint[]::oid[]) and t.tginitdeferred and t.tgenabled in ('O', 'A')
                  and t.tgtype & {event} <> 0
                order by 1
                """,
                oids=oids,
                event=8 if isinstance(action, Delete) else 16,
            )
        ]

    def missing(self, privileges: "Sequence[Privilege]") -> "list[Privilege]":
        """Those that this role lacks."""
        held = self._rows(
            """
            select case when to_lock then has_any_column_privilege(oid::oid, name)
                        when col = '' then has_table_privilege(oid::oid, name)
                        else has_column_privilege(oid::oid, col, name) end
            from unnest({oids}::bigint[], {names}::text[], {columns}::text[], {locks}::bool[])
                 with ordinality as privilege (oid, name, col, to_lock, place)
            order by place
            """,
            oids=[privilege.oid for privilege in privileges],
            names=[privilege.name for privilege in privileges],
            columns=[privilege.column or "" for privilege in privileges],  # array_nulls may be off
            locks=[privilege.to_lock for privilege in privileges],
        )
        return [privilege for privilege, (holds,) in zip(privileges, held, strict=True) if not holds]

    def missing_schemas(self, schemas: Iterable[str]) -> list[str]:
        """Those that this role may not use."""
        return [
            schema
            for (schema,) in self._rows(
                "select name from unnest({names}::text[]) as name where not has_schema_privilege(name, 'USAGE')",
                names=list(dict.fromkeys(schemas)),
            )
        ]

    def functions_barred(self, role: str, oids: list[int]) -> list[str]:
        """The functions that checks, indexes and generated columns of these tables call and `role` may not execute."""
        return [
            function
            for (function,) in self._rows(
                """
                select distinct format('%I.%I(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid))
                from (
                    select 'pg_constraint'::regclass, oid from pg_constraint
                    where contype = 'c' and conrelid = any({oids}::bigint[]::oid[])
                    union all
                    select 'pg_class'::regclass, indexrelid from pg_index where indrelid = any({oids}::bigint[]::oid[])
                    union all
                    select 'pg_attrdef'::regclass, d.oid
                    from pg_attrdef d
                    join pg_attribute a on a.attrelid = d.adrelid and a.attnum = d.adnum and a.attgenerated <> ''
                    where d.adrelid = any({oids}::bigint[]::oid[])
                    union all
                    select 'pg_class'::regclass, oid::oid from unnest({oids}::bigint[]) as oid
                ) as caller (class, oid)
                join pg_depend d on d.classid = caller.class and d.objid = caller.oid
                                and d.refclassid = 'pg_proc'::regclass
                join pg_proc p on p.oid = d.refobjid
                join pg_namespace n on n.oid = p.pronamespace
                where not has_function_privilege({role}, p.oid, 'EXECUTE')
                order by 1
                """,
                role=role,
                oids=oids,
            )
        ]

    def event_triggers(self) -> list[str]:
        """The enabled event triggers that fire where a table is made, a temporary one too."""
        return [
            _readable(name)
            for (name,) in self._rows(
                """
                select {name} from pg_event_trigger
                where evtenabled in ('O', 'A') and evtevent in ('ddl_command_start', 'ddl_command_end')
                  and (evttags is null or 'CREATE TABLE' = any(evttags))
                order by evtname
                """,
                name=_bytes("evtname"),
            )
        ]

    def identity(self) -> tuple[str, str, bool]:
        """The role that we are, the database, and whether we may make temporary tables in it."""
        ((role, database, may),) = self._rows(
            "select current_user::text, current_database(), has_database_privilege(current_database(), 'TEMP')"
        )
        return role, database, may

    def database(self) -> str:
        """The database's name."""
        _, database, _ = self.identity()
        return database

    def hides_rows(self, oids: list[int]) -> list[str]:
        """The relations of which row-level security may hide rows from this role."""
        return [
            name
            for (name,) in self._rows(
                "select oid::regclass::text from unnest({oids}::bigint[]) as oid where row_security_active(oid::oid)",
                oids=oids,
            )
        ]

    def publications(self, oids: list[int]) -> list[str]:
        """The publications that the tables are in."""
        return [
            name
            for (name,) in self._rows(
                """
                select distinct p.pubname
                from pg_class c
                join pg_namespace n on n.oid = c.relnamespace
                join pg_publication_tables p on p.schemaname = n.nspname and p.tablename = c.relname
                where c.oid = any({oids}::bigint[]::oid[])
                order by 1
                """,
                oids=oids,
            )
        ]


def _bytes(name: LiteralString) -> sql.Composed:
    """A name as bytes, in SQL: names of whatever table may stand there, and of no encoding if the database has none."""
    return sql.SQL(
        "convert_to({}, case getdatabaseencoding() when 'SQL_ASCII' then 'SQL_ASCII' else 'UTF8' end)"
    ).format(sql.SQL(name))


def _readable(name: bytes) -> str:
    return escaped(name.decode("utf-8", "backslashreplace"))
