"""Finding out which rows refer to a parent that does not exist.

The judge reads, in slices of heap blocks, and keeps what it found in a temporary table. An empty parent makes every row
an orphan, so each slice ends with a look at the parent in the same transaction: *after* judging, since `TRUNCATE` hides
rows from older snapshots too, and from then on our lock keeps it out.
"""

from dataclasses import dataclass

from psycopg import sql

from cleanup_pipeline.postgres import Transaction
from cleanup_pipeline.sweep.catalog import Leaf
from cleanup_pipeline.sweep.finding import RefusedError
from cleanup_pipeline.sweep.moment import earliest, latest
from cleanup_pipeline.sweep.statements import Part, Statements


def judge(statements: Statements, transaction: Transaction, leaf: Leaf, part: Part) -> int:
    """Judge the rows in `part` and keep the orphans; returns how many. Raises `RefusedError` on an empty parent."""
    found = transaction.run(statements.judge(leaf, part))
    require_parent(transaction, statements, leaf, part)
    return found


def judged(statements: Statements, transaction: Transaction, leaf: Leaf, part: Part) -> list[tuple[str, bytes]]:
    """The same for a client that has to carry the pairs (address, reference) itself."""
    found = transaction.rows(statements.judged(leaf, part))
    require_parent(transaction, statements, leaf, part)
    return [(tid, reference) for tid, reference in found]


@dataclass(frozen=True, slots=True)
class Orphans:
    """How many rows are orphans, and when the oldest and the newest of them were made or last changed."""

    rows: int = 0
    oldest: str | None = None
    newest: str | None = None

    def __add__(self, others: "Orphans") -> "Orphans":
        return Orphans(
            self.rows + others.rows, earliest(self.oldest, others.oldest), latest(self.newest, others.newest)
        )

    @property
    def when(self) -> str:
        """When, not whose: what was orphaned in one night has one cause."""
        return f"They were made or last changed between {self.oldest} and {self.newest}."


def count(statements: Statements, transaction: Transaction, leaf: Leaf, part: Part) -> Orphans:
    """Count the orphans in `part`. Raises `RefusedError` on an empty parent."""
    found = Orphans(*transaction.one(statements.count_orphans(leaf, part)))
    require_parent(transaction, statements, leaf, part)
    return found


def lacks_parents(transaction: Transaction, statements: Statements, leaf: Leaf, part: Part) -> str | None:
    """What is wrong where the parent is empty and a row in `part` refers to it."""
    if _is_true(transaction, statements.parent_exists()) or not _is_true(
        transaction, statements.reference_exists(leaf, part)
    ):
        return None
    parent = statements.reference.parent
    return (
        f"{parent} is empty while rows of {leaf.table} refer to it: each of them would be an orphan. "
        f"Check that {parent} was restored completely."
    )


def require_parent(transaction: Transaction, statements: Statements, leaf: Leaf, part: Part) -> None:
    """Raise `RefusedError` where the parent is empty and a row in `part` refers to it."""
    if wrong := lacks_parents(transaction, statements, leaf, part):
        raise RefusedError(wrong)


def _is_true(transaction: Transaction, query: sql.Composed) -> bool:
    (answer,) = transaction.one(query)
    return bool(answer)
