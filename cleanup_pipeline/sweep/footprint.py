"""What a rule's table is, and how large, as the catalog knows it: no row is read."""

from dataclasses import dataclass

import psycopg
from psycopg import sql

from cleanup_pipeline.postgres import CleanupError, Limits, Session
from cleanup_pipeline.rules import Rule
from cleanup_pipeline.sweep.catalog import Catalog, Column

_LIMITS = Limits(statement_s=5.0)
_CAN_COUNT_NOW = 150000
# The server counts what a session has changed a while later, unless it is asked to do so at the transaction's end.
_COUNT_NOW = sql.SQL("select pg_catalog.pg_stat_force_next_flush()")


@dataclass(frozen=True, slots=True)
class Footprint:
    """A table's columns, its rows as the server estimates them, and its bytes with indexes and TOAST."""

    columns: dict[str, Column]
    rows: int
    size: int


def measure(session: Session, rule: Rule) -> Footprint | None:
    """Measure the rule's table; None where it can't be looked at now. Raises nothing."""
    try:
        if session.server_version >= _CAN_COUNT_NOW:
            with session.transaction(_LIMITS) as transaction:
                transaction.run(_COUNT_NOW)
        with session.transaction(_LIMITS) as transaction:
            catalog = Catalog(transaction)
            relation = catalog.relation(rule.table)
            if relation is None:
                return None
            rows, size = catalog.size([leaf.oid for leaf in catalog.leaves(relation)])
            return Footprint(relation.columns, rows, size)
    except (CleanupError, psycopg.Error):
        return None
