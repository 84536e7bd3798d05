"""A limit on how much of a table a rule may take; it blows before anything is written."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from cleanup_pipeline.sweep.finding import RefusedError
from cleanup_pipeline.sweep.reader import Reader
from cleanup_pipeline.sweep.statements import Statements

# Below this a share says little: the orphans of one removed user may be half of a small table.
SMALL_TABLE_ROWS = 1_000


@dataclass(frozen=True, slots=True)
class Fuse:
    """At most `max_share` of a table's rows; None: no limit."""

    max_share: float | None

    def rows_needed(self, candidates: int) -> int:
        """How many rows the table must have for `candidates` to pass; counting further is of no use."""
        if self.max_share is None or candidates == 0:
            return 0
        # By way of the decimal text: 3 / 0.1 is a little more than 30.
        return max(SMALL_TABLE_ROWS, math.ceil(candidates / Fraction(str(self.max_share))))

    def check(self, candidates: int, rows: int, table: object) -> None:
        """Raise `RefusedError` where `candidates` of a table of `rows` rows are too many."""
        if self.max_share is None or rows < SMALL_TABLE_ROWS or rows >= self.rows_needed(candidates):
            return
        enough = math.ceil(100 * candidates / rows) / 100
        raise RefusedError(
            f"The fuse blew: {candidates:,} of the {rows:,} rows of {table} are orphans ({candidates / rows:.2%}), "
            f"and the rule may take {self.max_share:.0%}. Check that the parent table is complete; if it is, "
            f"lift the fuse for one run with --allow-share {enough:.2f} and a --reason (in the launchpad: allow_share "
            "and reason of cleanup_run)."
        )


def count_rows(reader: Reader, statements: Statements, enough: int) -> Iterator[tuple[float, int]]:
    """Count the table's rows until there are `enough`; gives how much of a leaf is done, and the rows of that part."""
    rows = 0
    for leaf in statements.target.leaves:
        if rows >= enough:
            return
        for share, (found,) in reader.slices(
            statements, leaf, lambda transaction, leaf, part: transaction.one(statements.count_rows(leaf, part))
        ):
            rows += found
            yield share, found
            if rows >= enough:
                return


MOST_SCANNED_PAGES = 100_000_000
"""So many pages of other tables a sweep may scan for want of an index: about a day's reading."""


def scans(due: int, pages_each: int, table: object) -> list[str]:
    """What deleting `due` rows costs, each of which scans so many pages elsewhere; nothing where it costs nothing.

    Raises `RefusedError` where it would take too long.
    """
    pages = due * pages_each
    if not pages:
        return []
    cost = f"Deleting {due:,} rows of {table} scans {pages:,} pages of tables that refer to it without an index."
    if pages > MOST_SCANNED_PAGES:
        raise RefusedError(f"{cost} Build the index that cleanup-pipeline doctor names first.")
    return [cost]
