"""The SQL of a sweep.

Two laws shape it. A condition on the row itself stands in the statement that writes, so that `READ COMMITTED` checks it
again on the newest version of a row that the app has just changed. A condition on another table never does: there the
re-check would see the other table by the old snapshot. An orphan is judged first, which gives *pairs* of its address
(`ctid`) and the reference's value; the writing statement takes a row where both still match. A `ctid` alone is no
identity: a rewritten table gives it to another row.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import ClassVar

from psycopg import sql

from cleanup_pipeline.postgres import Parameters
from cleanup_pipeline.rules import OVERDUE_AFTER, Close, Reference, Table
from cleanup_pipeline.sweep.catalog import TRIGGER_AS_IT_IS, Leaf
from cleanup_pipeline.sweep.target import Target

# What was judged lives in a temporary table. Its rows are read back in the order in which they were written, by their
# own addresses: the first lies behind NO_CANDIDATE.
_CANDIDATES = sql.SQL("pg_temp.cleanup_candidates")
NO_CANDIDATE = "(0,0)"
DROP_CANDIDATES = sql.SQL("drop table if exists pg_temp.cleanup_candidates")
# Without it windows are planned for a table of unknown size.
ANALYZE_CANDIDATES = sql.SQL("analyze pg_temp.cleanup_candidates")
# The address of the last judged row, and how many there are.
LAST_CANDIDATE = sql.SQL("select coalesce(max(ctid)::text, '(0,0)'), count(*) from pg_temp.cleanup_candidates")

# Of all ways only the scan of a range of blocks is left, which reads them one after the other.
IN_BLOCK_ORDER = sql.SQL(
    "set local enable_tidscan = on; set local enable_seqscan = off; set local enable_bitmapscan = off;"
    " set local enable_indexscan = off; set local enable_indexonlyscan = off"
)

# A second process of the server's may help; where nobody is to be spared.
WITH_HELP = sql.SQL("set local max_parallel_workers_per_gather = 1")


def identifier(table: Table) -> sql.Identifier:
    """The table's qualified and quoted name."""
    return sql.Identifier(table.schema, table.name)


# --- Which rows a statement is about ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Blocks:
    """The rows in the heap blocks `first` to `end` - 1. Read by a scan of that range, each page once, with no index.

    Where rows are written, `most` of them at the most.
    """

    first: int
    end: int
    most: int | None = None
    parameters: ClassVar[Parameters] = ()

    @property
    def bounds(self) -> tuple[str, str]:
        """The addresses between which the rows lie, the second excluded."""
        return f"({self.first},0)", f"({self.end},0)"

    def halves(self) -> "list[Blocks]":
        """Two smaller parts; none where there is but one block."""
        middle = (self.first + self.end) // 2
        return [] if self.end - self.first < 2 else [replace(self, end=middle), replace(self, first=middle)]


@dataclass(frozen=True, slots=True)
class Everything:
    """All rows of the table, to be read: without a range of blocks that is cheaper, and `WITH_HELP` cheaper still."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """The judged rows that lie behind `after` up to and with `last` in the temporary table: `rows` of them."""

    after: str
    last: str
    rows: int
    parameters: ClassVar[Parameters] = ()


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows by their addresses; with `references` each must still hold that value as well.

    References are the bytes of their text: in a database of encoding SQL_ASCII they need not be text that we can read.
    They name people: the server must not log them with a statement that failed.
    """

    tids: tuple[str, ...]
    references: tuple[bytes, ...] | None = None

    @property
    def parameters(self) -> Parameters:
        """What statements about these rows take as parameters."""
        return () if self.references is None else (list(self.references),)

    def halves(self) -> "list[Rows]":
        """Two smaller parts; none where there is but one row."""
        middle = len(self.tids) // 2
        if not middle:
            return []
        refs = self.references
        return [
            Rows(self.tids[:middle], None if refs is None else refs[:middle]),
            Rows(self.tids[middle:], None if refs is None else refs[middle:]),
        ]


Scope = Blocks | Candidates | Rows
"""Statements about a scope are to be run with its `parameters`."""
Part = Blocks | Everything
"""What is read at once."""


def overdue_before(as_of: datetime, age: timedelta | None) -> datetime:
    """A due row of which the time lies before that was left by an earlier night."""
    try:
        return as_of.astimezone(UTC) - (age or timedelta()) - OVERDUE_AFTER
    except OverflowError:
        return datetime.min.replace(tzinfo=UTC)


# --- The statements --------------------------------------------------------------------------------------------------


class Statements:
    """The statements of one rule, for one run's `as_of`. In each, `t` is the swept table (one leaf of it)."""

    def __init__(self, target: Target, as_of: datetime, age: timedelta | None) -> None:
        self.target = target
        self.rule = target.rule
        # In UTC: in a zone that sets its clocks back, arithmetic goes by the clock on the wall.
        self._due = self._row_condition(as_of.astimezone(UTC), age)
        self.overdue_before = overdue_before(as_of, age)

    def _row_condition(self, as_of: datetime, age: timedelta | None) -> sql.Composed:
        conditions: list[sql.Composable] = []
        if self.rule.due:
            conditions.append(sql.SQL(self.rule.due % {"as_of": sql.Literal(as_of).as_string()}))
        if age is not None:
            conditions.append(sql.SQL("{} < {}").format(self.age, sql.Literal(as_of - age)))
        if self.rule.orphan_of:
            conditions.append(sql.SQL("{} is not null").format(self._reference))
        return sql.SQL(" and ").join(conditions)

    @property
    def age(self) -> sql.Composable:
        """By what a row's age is told: the time it was made or last changed, or for a closing rule its new value."""
        if isinstance(self.rule.action, Close):
            return _column(self.rule.action.value)
        columns = [_column(name) for name in self.target.age_columns]
        return columns[0] if len(columns) == 1 else sql.SQL("greatest({})").format(sql.SQL(", ").join(columns))

    @property
    def reference(self) -> Reference:
        """What the rows refer to. Asked of orphan rules only."""
        if self.rule.orphan_of is None:
            raise ValueError(f"{self.rule.name} is no orphan rule")
        return self.rule.orphan_of

    @property
    def _reference(self) -> sql.Composed:
        return _column(self.reference.column)

    @property
    def _reference_bytes(self) -> sql.Composed:
        return sql.SQL("pg_catalog.convert_to({}::text, 'SQL_ASCII')").format(self._reference)

    @property
    def _is_orphan(self) -> sql.Composed:
        return sql.SQL(
            "not exists (select from {parent} as p where p.{key} operator(pg_catalog.=) {reference})"
        ).format(parent=self._parent, key=sql.Identifier(self.reference.key), reference=self._reference)

    # Writing.

    def write(self, leaf: Leaf, scope: Scope) -> sql.Composed:
        """Clean the due rows of `scope`."""
        return sql.SQL("{} where {}").format(self._verb(leaf), self._due_within(scope))

    def write_picked(self, leaf: Leaf, scope: Scope, *, limit: int | None, skip_locked: bool) -> sql.Composed:
        """The same for at most `limit` rows, and only for those that nobody else has locked where `skip_locked`."""
        picked = sql.SQL("select t.ctid from only {} as t where {}{}{}").format(
            identifier(leaf.table),
            self._due_within(scope),
            sql.SQL("" if limit is None else " limit {}").format(sql.Literal(limit)),
            sql.SQL(" for update of t skip locked" if skip_locked else ""),
        )
        return sql.SQL("{} where t.ctid = any (array({})) and {}").format(
            self._verb(leaf), picked, self._due_within(scope)
        )

    def explain_write(self, leaf: Leaf) -> sql.Composed:
        """Have the server take a write in hand without doing it: it raises what it would raise for every row."""
        return sql.SQL("explain (costs off) {}").format(self.write(leaf, Blocks(0, 1)))

    def telling_age(self, write: sql.Composed) -> sql.Composed:
        """The same write, as a query for how many rows it cleaned and the oldest's time."""
        return sql.SQL("with cleaned as ({} returning {} as age) select count(*), min(age)::text from cleaned").format(
            write, self.age
        )

    def surprise(self, leaf: Leaf) -> sql.Composed:
        """What has come since preflight: foreign keys with an action, rewrite rules, triggers (by name, else null).

        A trigger also where it or its function was replaced, a foreign key where it is enforced since.

        Last, whether the names still mean the tables that preflight has seen: we write, and judge, by name. To be asked
        after writing and before the commit: from the write on our lock keeps all of that out.
        """
        closes = isinstance(self.rule.action, Close)
        return sql.SQL(
            "select (select pg_catalog.string_agg(conname, ', ') from pg_catalog.pg_constraint where contype = 'f'"
            " and {key_action} in ('c', 'n', 'd') and confrelid = any ({family}::bigint[]::oid[])"
            " and oid <> all ({known_keys}::bigint[]::oid[])"
            # One that is not enforced has no triggers.
            " and exists (select from pg_catalog.pg_trigger where tgconstraint = pg_constraint.oid)),"
            " (select pg_catalog.string_agg(rulename, ', ') from pg_catalog.pg_rewrite where ev_class = {leaf}::oid"
            " and ev_type = {rule_event} and ev_enabled <> 'D'),"
            " (select pg_catalog.string_agg(tgname, ', ') from pg_catalog.pg_trigger as t"
            " join pg_catalog.pg_proc as f on f.oid = tgfoid where tgrelid = {leaf}::oid"
            " and not tgisinternal and tgenabled <> 'D' and tgtype::int & {trigger_event} <> 0"
            " and {as_it_is} <> all ({known_triggers}::text[])),"
            " {is_leaf} and {is_parent}"
        ).format(
            key_action=sql.Identifier("confupdtype" if closes else "confdeltype"),
            family=sql.Literal(list(self.target.family)),
            known_keys=sql.Literal(list(self.target.known_keys)),
            leaf=sql.Literal(leaf.oid),
            rule_event=sql.Literal("2" if closes else "4"),
            trigger_event=sql.Literal(16 if closes else 8),
            as_it_is=TRIGGER_AS_IT_IS,
            known_triggers=sql.Literal(list(self.target.known_triggers)),
            is_leaf=_is_still(leaf.table, leaf.oid) + self._belongs(leaf),
            is_parent=_is_still(self.rule.orphan_of.parent, self.target.parent)
            if self.rule.orphan_of
            else sql.SQL("true"),
        )

    def _belongs(self, leaf: Leaf) -> sql.Composed:
        """Whether the leaf is a partition of the swept table still, or none."""
        if not leaf.is_partition:
            return sql.SQL(" and not (select relispartition from pg_catalog.pg_class where oid = {}::oid)").format(
                sql.Literal(leaf.oid)
            )
        return sql.SQL(
            " and exists (select from pg_catalog.pg_inherits where inhrelid = {}::oid"
            " and inhparent = any ({}::bigint[]::oid[]))"
        ).format(sql.Literal(leaf.oid), sql.Literal(list(self.target.family)))

    def held_up(self, leaf: Leaf) -> sql.Composed:
        """Whether somebody waits for a row that our transaction has changed, or for the table."""
        return sql.SQL(
            "select exists (select from pg_catalog.pg_locks where not granted"
            " and (transactionid = pg_current_xact_id_if_assigned()::xid"
            " or relation = {}::oid"
            " and database = (select oid from pg_catalog.pg_database where datname = current_database())))"
        ).format(sql.Literal(leaf.oid))

    def _verb(self, leaf: Leaf) -> sql.Composed:
        action = self.rule.action
        if isinstance(action, Close):
            return sql.SQL("update only {} as t set {} = {}").format(
                identifier(leaf.table), sql.Identifier(action.column), _column(action.value)
            )
        return sql.SQL("delete from only {} as t").format(identifier(leaf.table))

    def _due_within(self, scope: Scope | Part) -> sql.Composed:
        """Which rows of `scope` are due, in a form that fits no index.

        A planner that believes few rows to be due, by statistics that are old, would follow an index through all that
        are for each window.
        """
        if isinstance(scope, Everything):
            return self._due
        return sql.SQL("{} and ({}) is true").format(self._within(scope), self._due)

    def _within(self, scope: Scope | Part) -> sql.Composed:
        match scope:
            case Blocks():
                first, end = scope.bounds
                return sql.SQL("t.ctid >= {} and t.ctid < {}").format(_tid(first), _tid(end))
            case Everything():
                return sql.SQL("true").format()
            case Candidates(after, last):
                judged = sql.SQL("from {} where ctid > {} and ctid <= {}").format(_CANDIDATES, _tid(after), _tid(last))
                condition = sql.SQL("t.ctid = any (array(select tid {}))").format(judged)
                if self.rule.orphan_of:
                    condition += sql.SQL(" and (t.ctid, {}) operator(pg_catalog.=) any (select tid, ref {})").format(
                        self._reference, judged
                    )
                return condition
            case Rows(tids, None):
                return sql.SQL("t.ctid = any ({}::tid[])").format(sql.Literal(list(tids)))
            case Rows(tids):
                return sql.SQL(
                    "t.ctid = any ({tids}::tid[]) and (t.ctid, {reference}) operator(pg_catalog.=) any ("
                    "select * from unnest({tids}::tid[], $1::bytea[]))"
                ).format(
                    tids=sql.Literal(list(tids)),
                    reference=self._reference_bytes,
                )

    # Judging: which rows refer to a parent that does not exist.

    def make_candidates(self) -> sql.Composed:
        """Make the temporary table of what was judged."""
        reference = self.target.reference_type
        return sql.SQL("create temporary table cleanup_candidates (tid tid not null{})").format(
            sql.SQL("" if reference is None else f", ref {reference} not null")
        )

    def judge(self, leaf: Leaf, part: Part) -> sql.Composed:
        """Keep the pairs (address, reference) of the orphans in `part`, in the order of their addresses."""
        return sql.SQL("insert into {} (tid, ref) {} order by t.ctid").format(
            _CANDIDATES, self._orphans(sql.SQL("t.ctid, {}").format(self._reference), leaf, part)
        )

    def judged(self, leaf: Leaf, part: Part) -> sql.Composed:
        """The same pairs, where there can be no temporary table."""
        return self._orphans(sql.SQL("t.ctid::text, {}").format(self._reference_bytes), leaf, part)

    def count_orphans(self, leaf: Leaf, part: Part) -> sql.Composed:
        """How many orphans there are in `part`, and the oldest's and the newest's time."""
        return self._orphans(sql.SQL("count(*), min({0})::text, max({0})::text").format(self.age), leaf, part)

    def _orphans(self, what: sql.Composable, leaf: Leaf, part: Part) -> sql.Composed:
        # An empty parent makes no orphan. One that is filled again before the look behind this statement hides that.
        return sql.SQL("select {} from only {} as t where {} and {} and exists (select from {})").format(
            what, identifier(leaf.table), self._due_within(part), self._is_orphan, self._parent
        )

    def parent_exists(self) -> sql.Composed:
        """Whether the parent has any row."""
        return sql.SQL("select exists (select from {})").format(self._parent)

    @property
    def _parent(self) -> sql.Identifier:
        return identifier(self.reference.parent)

    def reference_exists(self, leaf: Leaf, part: Part) -> sql.Composed:
        """Whether any row in `part` refers to a parent at all."""
        return sql.SQL("select exists (select from only {} as t where {} and {} is not null)").format(
            identifier(leaf.table), self._within(part), self._reference
        )

    # Gathering: the due rows that an index leads to.

    def first_by_age(self, leaf: Leaf) -> sql.Composed:
        """The query whose plan tells whether an index leads to the due rows, oldest first."""
        return sql.SQL("explain (format json, costs off) select from only {} as t where {} order by {} limit 1").format(
            identifier(leaf.table), self._due, self.age
        )

    def count_by_age(self, leaf: Leaf, at_most: int) -> sql.Composed:
        """How many rows are due, counted up to `at_most`, and the oldest's time."""
        return sql.SQL(
            "select count(*), min(age)::text"
            " from (select {age} as age from only {table} as t where {due} order by {age} limit {limit}) as oldest"
        ).format(age=self.age, table=identifier(leaf.table), due=self._due, limit=sql.Literal(at_most))

    def gather(self, leaf: Leaf, at_most: int) -> sql.Composed:
        """Keep the addresses of the oldest due rows, in the order of their addresses."""
        return sql.SQL(
            "insert into {candidates} (tid)"
            " select tid"
            " from (select t.ctid as tid from only {table} as t where {due} order by {age} limit {limit}) as oldest"
            " order by tid"
        ).format(
            candidates=_CANDIDATES,
            table=identifier(leaf.table),
            due=self._due,
            age=self.age,
            limit=sql.Literal(at_most),
        )

    # Looking.

    def pages(self, leaf: Leaf) -> sql.Composed:
        """How many blocks the leaf has now."""
        return sql.SQL(
            "select pg_catalog.pg_relation_size({}::oid::regclass) / current_setting('block_size')::bigint"
        ).format(sql.Literal(leaf.oid))

    def rows_a_page(self, leaf: Leaf) -> sql.Composed:
        """How many rows a page of the leaf held when vacuum or ANALYZE last saw it; null where none has."""
        return sql.SQL(
            "select case when reltuples > 0 and relpages > 0 then reltuples / relpages end"
            " from pg_catalog.pg_class where oid = {}::oid"
        ).format(sql.Literal(leaf.oid))

    def count_due(self, leaf: Leaf, scope: Scope | Part) -> sql.Composed:
        """How many rows of `scope` are due (of an orphan rule: still what they were judged to be), and the oldest."""
        return sql.SQL("select count(*), min({})::text from only {} as t where {}").format(
            self.age, identifier(leaf.table), self._due_within(scope)
        )

    def first_due(self, leaf: Leaf) -> sql.Composed:
        """The first block with a due row from $1 to before $2, both addresses; no row where there is none.

        To be asked where rows are read `IN_BLOCK_ORDER`.
        """
        return sql.SQL(
            "select (t.ctid::text::point)[0]::bigint from only {} as t"
            " where t.ctid >= $1::tid and t.ctid < $2::tid and ({}) is true limit 1"
        ).format(identifier(leaf.table), self._due)

    def ages(self, leaf: Leaf, scope: Scope) -> sql.Composed:
        """When the oldest and the newest due row of `scope` were made or last changed."""
        return sql.SQL("select min({age})::text, max({age})::text from only {table} as t where {due}").format(
            age=self.age, table=identifier(leaf.table), due=self._due_within(scope)
        )

    def due_addresses(self, leaf: Leaf, scope: Scope) -> sql.Composed:
        """The addresses of the due rows of `scope`."""
        return sql.SQL("select t.ctid::text from only {} as t where {}").format(
            identifier(leaf.table), self._due_within(scope)
        )

    def is_kept(self, leaf: Leaf, scope: Scope) -> sql.Composed:
        """Whether a due row of `scope` is there that nobody has locked."""
        return sql.SQL(
            "select exists (select from"
            " (select from only {} as t where {} limit 1 for update of t skip locked) as free)"
        ).format(identifier(leaf.table), self._due_within(scope))

    def count_undated(self, leaf: Leaf, part: Part) -> sql.Composed:
        """How many rows in `part` have no age, and so will never be due."""
        return sql.SQL("select count(*) from only {} as t where {} and {} is null").format(
            identifier(leaf.table), self._within(part), self.age
        )

    def count_rows(self, leaf: Leaf, part: Part) -> sql.Composed:
        """How many rows there are in `part`."""
        return sql.SQL("select count(*) from only {} as t where {}").format(identifier(leaf.table), self._within(part))

    def count_up_to(self, leaf: Leaf, at_most: int) -> sql.Composed:
        """How many rows there are, counted up to `at_most`; cheap by an index, where vacuum has been there."""
        return sql.SQL("select count(*) from (select from only {} as t limit {}) as counted").format(
            identifier(leaf.table), sql.Literal(at_most)
        )

    def next_candidates(self, after: str, end: str, at_most: int) -> sql.Composed:
        """The address of the last of the next judged rows, and how many there are."""
        return sql.SQL(
            "select max(ctid)::text, count(*) from"
            " (select ctid from {} where ctid > {} and ctid <= {} limit {}) as next"
        ).format(_CANDIDATES, _tid(after), _tid(end), sql.Literal(at_most))


def _is_still(table: Table, oid: int | None) -> sql.Composed:
    return sql.SQL("pg_catalog.to_regclass({})::oid is not distinct from {}::oid").format(
        sql.Literal(identifier(table).as_string()), sql.Literal(oid)
    )


def _column(name: str) -> sql.Composed:
    return sql.SQL("t.{}").format(sql.Identifier(name))


def _tid(address: str) -> sql.Composed:
    return sql.SQL("{}::tid").format(sql.Literal(address))
