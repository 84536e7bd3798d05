"""What a write sets off besides: the columns that change with it, the triggers that fire, the tables it reaches."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from cleanup_pipeline.rules import Delete, Rule
from cleanup_pipeline.sweep.catalog import ACTIONS, Catalog, ForeignKey, Trigger
from cleanup_pipeline.sweep.finding import Finding, Severity


@dataclass(frozen=True, slots=True)
class Change:
    """What is done to rows of a table: they are deleted (`columns` is None), or these of their columns change.

    `by`: a trigger that may change any other column as well, but a primary key of one column, before the row is
    written.
    """

    table: int
    columns: frozenset[int] | None = None
    by: str | None = None

    def sets_off(self, key: ForeignKey) -> str | None:
        """What a foreign key that points at the rows does (pg_constraint's letter); None where nothing."""
        if self.columns is None:
            return key.on_delete
        if not self.columns.isdisjoint(key.key):
            return key.on_update
        # A trigger that sets `updated_at` is common, and so is a cascade from the primary key: where that is one column
        # (unique by whatever index), it is the row's identity, and we take it that no trigger changes it. Of several
        # columns one may be a version or a time.
        # Where a trigger only may change what is referred to, that a key forbids it is nothing to tell.
        return key.on_update if self.by and key.on_update not in "ar" and not key.of_primary else None


class Updates:
    """What an update of some columns of these tables changes and sets off on the tables themselves.

    The catalog is asked when it is first needed.
    """

    def __init__(self, catalog: Catalog, oids: Iterable[int]) -> None:
        self._catalog = catalog
        self._oids = sorted(oids)

    @cached_property
    def _generated(self) -> dict[int, dict[int, frozenset[int]]]:
        return self._catalog.generated(self._oids)

    @cached_property
    def _triggers(self) -> dict[int, list[Trigger]]:
        triggers: dict[int, list[Trigger]] = {}
        for trigger in self._catalog.triggers(self._oids, deleting=False):
            triggers.setdefault(trigger.table, []).append(trigger)
        return triggers

    def change(self, table: int, written: frozenset[int]) -> Change:
        """Which columns change where these are written: generated ones too, and any other by a trigger."""
        generated = self._generated.get(table, {})
        columns = written | {number for number, made_from in generated.items() if not made_from.isdisjoint(written)}
        by = next((trigger.name for trigger in self.triggers(table, written) if trigger.may_veto), None)
        return Change(table, columns, by)

    def triggers(self, table: int, written: frozenset[int]) -> list[Trigger]:
        """The triggers that fire where these columns are written."""
        triggers, generated = self._triggers.get(table, []), self._generated.get(table, {})
        # With a trigger before it the server makes every generated column anew, and has those for it fire.
        anew = any(trigger.may_veto for trigger in triggers)
        named = written | {
            number for number, made_from in generated.items() if anew or not made_from.isdisjoint(written)
        }
        return [trigger for trigger in triggers if not trigger.columns or not trigger.columns.isdisjoint(named)]


def updates_within(catalog: Catalog, family: list[int], keys: list[ForeignKey]) -> Updates:
    """What updates of these tables, and of those that refer to them, would set off."""
    return Updates(catalog, {*family, *(key.child for key in keys if key.enforced)})


def triggers_fired(catalog: Catalog, rule: Rule, oids: list[int], updates: Updates) -> list[Trigger]:
    """The app's enabled triggers on these tables that fire on what the rule does."""
    if isinstance(rule.action, Delete):
        return catalog.triggers(oids, deleting=True)
    written = catalog.numbers(oids, rule.action.column)
    return [trigger for oid, number in written.items() for trigger in updates.triggers(oid, frozenset({number}))]


def blast_radius(
    catalog: Catalog, rule: Rule, family: list[int], keys: list[ForeignKey], updates: Updates
) -> Iterator[Finding]:
    """Follow what the write sets off, from table to table, by the foreign keys that may be met on the way."""
    keys = [key for key in keys if key.enforced]
    own = {mine.oid for table in rule.may_touch if (mine := catalog.relation(table))}
    if isinstance(rule.action, Delete):
        changes = [Change(oid) for oid in family]
    else:
        written = catalog.numbers(family, rule.action.column)
        changes = [updates.change(oid, frozenset({number})) for oid, number in written.items()]
    paths = [(change, str(rule.table)) for change in changes]
    seen = set(changes)
    told: set[tuple[object, ...]] = set()
    while paths:
        change, path = paths.pop(0)
        for key in keys:
            action = change.sets_off(key) if key.parent == change.table else None
            if action is None:
                continue
            deletes = change.columns is None
            name = f"{key.child_name} ({key.name}, on {'delete' if deletes else 'update'} {ACTIONS[action]})"
            # A foreign key to a partitioned table has one of its own to each of the partitions.
            again = (key.child, key.child_columns, deletes, action) in told
            told.add((key.child, key.child_columns, deletes, action))
            way = f"{path} (its trigger {change.by} may change any column)" if change.by else path
            if action in "ar":
                if not again:
                    late = ", checked at commit" if key.deferred else ""
                    yield Finding(
                        Severity.WARNING,
                        f"{name} refers to {path}{late}: rows that it refers to can't be changed so, and stay.",
                    )
                continue
            if key.child not in own and not again:
                yield Finding(
                    Severity.REFUSAL,
                    f"{rule.name} would reach {key.child_name}, which the rule does not name as its own: "
                    f"{way} ← {name}.",
                    "Drop that foreign key's action, or name the table in the rule's may_touch.",
                )
            # A cascade deletes rows as a delete does; any other action changes the columns that refer.
            follows = (
                Change(key.child)
                if deletes and action == "c"
                else updates.change(key.child, frozenset(key.child_columns))
            )
            if follows not in seen:
                seen.add(follows)
                paths.append((follows, f"{way} ← {name}"))
    for deleting in (True, False):
        reached = sorted({change.table for change in seen if (change.columns is None) is deleting})
        for rewrite, table in catalog.rewrite_rules(reached, deleting=deleting) if reached else ():
            yield Finding(
                Severity.REFUSAL,
                f"The rewrite rule {rewrite} on {table} changes what the statement does.",
                "Drop the rule.",
            )


def reached_by_deleting(family: list[int], keys: list[ForeignKey]) -> list[str]:
    """The tables that deleting rows of these would change, by whatever path."""
    found: dict[int, str] = {}
    paths = list(family)
    while paths:
        parent = paths.pop()
        for key in keys:
            if key.enforced and key.parent == parent and key.on_delete in "cnd" and key.child not in found:
                found[key.child] = key.child_name
                if key.on_delete == "c":
                    paths.append(key.child)
    return sorted(found.values())
