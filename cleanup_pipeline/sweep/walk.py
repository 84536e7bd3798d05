"""The walk over a table's blocks: from the first to the last, each page once, with no index and no memory.

It writes windows of pages where rows are due, no more rows than fit where it can't tell what comes, and only reads
where windows change nothing: what a window costs whatever its size is then spared.
"""

from collections.abc import Iterator

from cleanup_pipeline.postgres import Transaction
from cleanup_pipeline.sweep.catalog import Leaf
from cleanup_pipeline.sweep.pace import Pace, Stride
from cleanup_pipeline.sweep.reader import LEAST_PAGE_S, PAGES_AT_FIRST, Reader
from cleanup_pipeline.sweep.statements import IN_BLOCK_ORDER, Blocks, Statements

_LEAST_WRITTEN_PAGE_S = 50e-6
# What a row is believed to cost before one was cleaned.
_ROW_S = 100e-6
_MUCH = 1.5
# A page that takes so many times the length of a window is taken in several.
_DEAR = 4
# More rows than any page holds: where a window does not end, a trigger brings its rows back.
_MOST_ROWS_A_PAGE = 2_000
# Looking for the next due row is worth a few windows: where one is met soon, the walk gives up later the next time.
_IDLE_WINDOWS, _MOST_IDLE_WINDOWS = 2, 64
_NEAR = 4
_LONGEST_LOOK_S = 0.2


def page_stride(pace: Pace) -> Stride:
    """How many pages a window covers. It begins with one: what its rows cost is not known."""
    return Stride(pace.window_s, first=1, floor_s=_LEAST_WRITTEN_PAGE_S)


class Walk:
    """One walk over `leaf`. Iterate for its windows, and tell what each `took` before the next.

    None comes in a window's place where the walk has only read. `share` is how much of the way is behind it.
    """

    def __init__(self, leaf: Leaf, statements: Statements, reader: Reader, pace: Pace) -> None:
        self._leaf = leaf
        self._statements = statements
        self._reader = reader
        self._pace = pace
        self._first = 0
        self._end = reader.pages(statements, leaf)
        self._pages = page_stride(pace)
        self._looks = Stride(min(pace.slice_s, _LONGEST_LOOK_S), first=PAGES_AT_FIRST, floor_s=LEAST_PAGE_S)
        self._patience = self._idle = _IDLE_WINDOWS
        self._row_s = _ROW_S
        self._few = True  # so few rows are due that a window of all too many may follow
        # Of the page that is taken in several windows: rows and seconds so far; and what a row costs where it is dear.
        self._changed, self._seconds = 0, 0.0
        self._dear_row_s: float | None = None
        self._to_end = False

    @property
    def share(self) -> float:
        """How much of the way is done."""
        return self._first / self._end if self._end else 1.0

    def __iter__(self) -> Iterator[Blocks | None]:
        while self._first < self._end:
            if self._idle >= self._patience:
                yield from self._read_on()
            else:
                wary = (self._few or self._dear_row_s) and not self._to_end
                most = self._fitting_rows if wary else None
                window = Blocks(self._first, min(self._first + self._pages.size, self._end), most)
                self._first = window.end
                yield window

    @property
    def _fitting_rows(self) -> int:
        return max(1, round(_MUCH * self._pace.window_s / (self._dear_row_s or self._row_s)))

    def took(self, window: Blocks, changed: int, seconds: float) -> None:
        """Learn how many rows a window changed and how long that took."""
        pages = window.end - window.first
        self._changed += changed
        self._seconds += seconds
        if changed:
            self._row_s = min(self._row_s, seconds / changed)
        is_dear = pages == 1 and self._changed > 1 and self._seconds > _DEAR * self._pace.window_s
        if is_dear:
            self._dear_row_s = self._seconds / self._changed
        if window.most and changed >= window.most and self._changed <= _MOST_ROWS_A_PAGE * pages:
            # There may be more of them: once more from where it began, and by small steps.
            self._first = window.first
            if pages > 1:
                self._pages = page_stride(self._pace)
                self._changed, self._seconds = 0, 0.0
            return
        # A trigger may keep the very rows that were picked: what else there is is taken without picking.
        self._to_end = bool(window.most and self._statements.target.triggers)
        if self._to_end:
            self._first = window.first
            return
        self._idle = 0 if self._changed else self._idle + 1
        self._pages.took(pages, self._seconds)
        self._dear_row_s = self._dear_row_s if is_dear else None
        self._few = 2 * self._changed * self._pages.size < self._fitting_rows * pages
        self._changed, self._seconds = 0, 0.0

    def _read_on(self) -> Iterator[None]:
        """Go to the next block with a row that is due."""
        before, self._idle = self._first, 0

        def look(transaction: Transaction, leaf: Leaf, blocks: Blocks) -> int | None:
            transaction.run(IN_BLOCK_ORDER)
            found = transaction.rows(self._statements.first_due(leaf, blocks))
            return int(found[0][0]) if found else None

        for blocks, block in self._reader.read(self._leaf, Blocks(before, self._end), look, self._looks):
            self._first = blocks.end if block is None else block
            if block is not None:
                break
            yield None
        near = self._first - before < _NEAR * self._pages.size
        self._patience = min(2 * self._patience, _MOST_IDLE_WINDOWS) if near else _IDLE_WINDOWS
