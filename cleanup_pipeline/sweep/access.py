"""By which way the due rows are reached: an index that leads to them, or a walk over the table's blocks.

The walk visits every page once, with no memory and no index. Where few rows are due, following an index is far cheaper.
The planner's estimate does not decide between them (it was off by 250 times on a fresh table): the due rows are counted
through the index, up to the number of the table's pages, from where on the walk wins.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from psycopg import errors, sql

from cleanup_pipeline.postgres import Limits, Transaction
from cleanup_pipeline.rules import escaped
from cleanup_pipeline.sweep.catalog import Leaf
from cleanup_pipeline.sweep.reader import Reader, pages_of
from cleanup_pipeline.sweep.statements import Statements

# Gathering this many addresses by an index takes about a second at worst.
MOST_GATHERED = 50_000
_LIMITS = Limits(statement_s=1.0)
_FOLLOW_THE_INDEX = sql.SQL(
    "set local enable_seqscan = off; set local enable_bitmapscan = off; set local enable_sort = off"
)


@dataclass(frozen=True, slots=True)
class Access:
    """The chosen way; `due` is the number of due rows where the index told it, and `oldest` the oldest's time."""

    index: str | None
    why: str
    due: int | None = None
    oldest: str | None = None


def choose(reader: Reader, statements: Statements, leaf: Leaf) -> Access:
    """Choose the way to the due rows of `leaf`."""

    def look(transaction: Transaction) -> Access:
        pages = pages_of(leaf, statements, transaction)
        most = min(pages, MOST_GATHERED)
        index = index_that_leads(transaction, statements, leaf)
        if index is None:
            return Access(None, "block ranges: no index leads to the due rows")
        due, oldest = transaction.one(statements.count_by_age(leaf, most))
        if due < most or due == 0:
            return Access(index, f"index {index}: {due:,} rows are due, the table has {pages:,} pages", due, oldest)
        return Access(
            None, f"block ranges: at least {due:,} rows are due, the table has {pages:,} pages", oldest=oldest
        )

    try:
        return reader.once(look, _LIMITS)
    except errors.QueryCanceled:
        return Access(None, "block ranges: counting the due rows by the index took too long")


def count_due(
    reader: Reader, statements: Statements, leaf: Leaf, way: Access
) -> Iterator[tuple[float, int, str | None]]:
    """Count what is due now: how much of `leaf` is done, how many due rows were found with that, the oldest's time."""
    if way.due is not None:
        yield 1.0, way.due, way.oldest
        return
    for share, (due, oldest) in reader.slices(
        statements, leaf, lambda transaction, leaf, part: transaction.one(statements.count_due(leaf, part))
    ):
        yield share, due, oldest


def index_that_leads(transaction: Transaction, statements: Statements, leaf: Leaf) -> str | None:
    """The index that leads to the due rows by age, by the planner's own word; None where there is none."""
    transaction.run(_FOLLOW_THE_INDEX)
    (plan,) = transaction.one(statements.first_by_age(leaf))
    return _index_of(plan[0]["Plan"])


def _index_of(plan: dict[str, Any]) -> str | None:
    """The index that a plan follows, in order; None where it sorts or scans."""
    if plan["Node Type"] in ("Index Scan", "Index Only Scan"):
        return escaped(str(plan["Index Name"]))
    return _index_of(plan["Plans"][0]) if plan["Node Type"] == "Limit" else None
