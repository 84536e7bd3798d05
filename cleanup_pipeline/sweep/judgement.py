"""Finding out which rows refer to a parent that does not exist.

The judge reads, in slices of heap blocks, and keeps what it found in a temporary table. An empty parent makes every row
an orphan, so each slice ends with a look at the parent in the same transaction: *after* judging, since `TRUNCATE` hides
rows from older snapshots too, and from then on our lock keeps it out.
"""

from psycopg import sql

from cleanup_pipeline.postgres import Transaction
from cleanup_pipeline.sweep.catalog import Leaf
from cleanup_pipeline.sweep.preflight import RefusedError
from cleanup_pipeline.sweep.statements import Blocks, Statements


def judge(statements: Statements, transaction: Transaction, leaf: Leaf, blocks: Blocks) -> int:
    """Judge the rows in `blocks` and keep the orphans; returns how many. Raises `RefusedError` on an empty parent."""
    found = transaction.run(statements.judge(leaf, blocks))
    require_parent(transaction, statements, leaf, orphans=found)
    return found


def judged(statements: Statements, transaction: Transaction, leaf: Leaf, blocks: Blocks) -> list[tuple[str, bytes]]:
    """The same for a client that has to carry the pairs (address, reference) itself."""
    found = transaction.rows(statements.judged(leaf, blocks))
    require_parent(transaction, statements, leaf, orphans=len(found))
    return [(tid, reference) for tid, reference in found]


def count(statements: Statements, transaction: Transaction, leaf: Leaf, blocks: Blocks) -> tuple[int, str | None]:
    """How many orphans there are in `blocks`, and the oldest's time. Raises `RefusedError` on an empty parent."""
    found, oldest = transaction.one(statements.count_orphans(leaf, blocks))
    require_parent(transaction, statements, leaf, orphans=found)
    return found, oldest


def require_parent(transaction: Transaction, statements: Statements, leaf: Leaf, *, orphans: int) -> None:
    """Raise `RefusedError` where the parent is empty and a row refers to it; `orphans` rows are known to."""
    if _is_true(transaction, statements.parent_exists()):
        return
    if orphans or _is_true(transaction, statements.reference_exists(leaf)):
        reference = statements.rule.orphan_of
        assert reference  # noqa: S101 -- only orphan rules are judged
        raise RefusedError(
            f"{reference.parent} is empty while rows of {leaf.table} refer to it: each of them would be an orphan. "
            f"Check that {reference.parent} was restored completely."
        )


def _is_true(transaction: Transaction, query: sql.Composed) -> bool:
    (answer,) = transaction.one(query)
    return bool(answer)
