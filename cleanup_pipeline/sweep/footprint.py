"""What a rule's table is, and how large, as the catalog knows it: no row is read."""

from contextlib import suppress
from dataclasses import dataclass

import psycopg
from psycopg import sql

from cleanup_pipeline.postgres import CleanupError, Limits, Session
from cleanup_pipeline.rules import Rule
from cleanup_pipeline.sweep.catalog import Catalog, Column

_LIMITS = Limits(statement_s=5.0)
_CAN_COUNT_NOW = 150000
# Of a table that was never analyzed the statistics tell; the server adds to them a while after a transaction.
_COUNT_NOW = sql.SQL("select pg_catalog.pg_stat_force_next_flush()")


@dataclass(frozen=True, slots=True)
class Footprint:
    """A table's columns, its rows, and its bytes with indexes and TOAST.

    `rows` is what vacuum or analyze last estimated, `counted` what the statistics have counted on from there; None:
    they have not.
    """

    columns: dict[str, Column]
    rows: int
    counted: int | None
    size: int


def measure(session: Session, rule: Rule) -> Footprint | None:
    """Measure the rule's table; None where it can't be looked at now. Raises nothing."""
    try:
        if session.server_version >= _CAN_COUNT_NOW:
            with suppress(psycopg.Error), session.transaction(_LIMITS) as transaction:
                transaction.run(_COUNT_NOW)
        with session.transaction(_LIMITS) as transaction:
            catalog = Catalog(transaction)
            relation = catalog.relation(rule.table)
            if relation is None:
                return None
            oids = [leaf.oid for leaf in catalog.leaves(relation)]
            rows, size = catalog.size(oids)
            return Footprint(relation.columns, rows, catalog.counted_rows(oids), size)
    except (CleanupError, psycopg.Error):
        return None


def rows_left(before: Footprint | None, after: Footprint, deleted: int) -> int:
    """How many rows a table has after `deleted` were deleted from it, by the server's estimates around that.

    An estimate is of when vacuum or analyze last looked. Where nobody has counted since, as in statistics that were
    lost, and it is still the same, what was deleted is still in it.
    """
    if after.counted is not None:
        return after.counted
    return max(0, before.rows - deleted) if before and before.rows == after.rows else after.rows
