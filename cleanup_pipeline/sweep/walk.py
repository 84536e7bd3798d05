"""The walk over a table's blocks: from the first to the last, each page once, with no index and no memory.

It writes windows of pages where rows are due, goes row by row where a single page is too much for a window, and only
reads where windows change nothing: what a window costs whatever its size is then spared.
"""

from collections.abc import Iterator

from cleanup_pipeline.postgres import Transaction
from cleanup_pipeline.sweep.catalog import Leaf
from cleanup_pipeline.sweep.pace import Pace, Stride
from cleanup_pipeline.sweep.reader import LEAST_PAGE_S, PAGES_AT_FIRST, Reader
from cleanup_pipeline.sweep.statements import IN_BLOCK_ORDER, Blocks, Rows, Statements

# A window covers no more pages than that, or than take its length where every row of them is due: behind a stretch of
# few due rows there may be one of many.
_MOST_PAGES = 30
_DUE_PAGE_S = 800e-6
_LEAST_ROW_S = 1e-6
# A page that takes so many times the length of a window is taken row by row.
_DEAR = 4
# Looking for the next due row is worth a few windows: where one is met soon, the walk gives up later the next time.
_IDLE_WINDOWS, _MOST_IDLE_WINDOWS = 2, 64
_NEAR = 4
_LONGEST_LOOK_S = 0.2


def page_stride(pace: Pace) -> Stride:
    """How many pages a window covers. It begins with one: what its rows cost is not known."""
    most = max(_MOST_PAGES, pace.window_s / _DUE_PAGE_S)
    return Stride(pace.window_s, first=1, floor_s=pace.window_s / most)


class Walk:
    """One walk over `leaf`. Iterate for its windows, and tell what each `took` before the next.

    None comes in a window's place where the walk has only read. `share` is how much of the way is behind it.
    """

    def __init__(self, leaf: Leaf, statements: Statements, reader: Reader, pace: Pace) -> None:
        self._leaf = leaf
        self._statements = statements
        self._reader = reader
        self._first = 0
        self._end = reader.pages(statements, leaf)
        self._pages = page_stride(pace)
        self._rows = Stride(pace.window_s, first=1, floor_s=_LEAST_ROW_S)
        self._looks = Stride(min(pace.slice_s, _LONGEST_LOOK_S), first=PAGES_AT_FIRST, floor_s=LEAST_PAGE_S)
        self._dear_s = _DEAR * pace.window_s
        self._row_by_row = False
        self._patience = self._idle = _IDLE_WINDOWS

    @property
    def share(self) -> float:
        """How much of the way is done."""
        return self._first / self._end if self._end else 1.0

    def __iter__(self) -> Iterator[Blocks | Rows | None]:
        while self._first < self._end:
            if self._idle >= self._patience:
                yield from self._read_on()
            elif self._row_by_row:
                yield from self._rows_of_a_page()
            else:
                window = Blocks(self._first, min(self._first + self._pages.size, self._end))
                self._first = window.end
                yield window

    def took(self, window: Blocks | Rows, changed: int, seconds: float) -> None:
        """Learn how many rows a window changed and how long that took."""
        self._idle = 0 if changed else self._idle + 1
        if isinstance(window, Rows):
            self._rows.took(len(window.tids), seconds)
            return
        pages = window.end - window.first
        self._pages.took(pages, seconds)
        self._row_by_row = pages == 1 and changed > 1 and seconds > self._dear_s

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

    def _rows_of_a_page(self) -> Iterator[Rows | None]:
        page = Blocks(self._first, self._first + 1)
        found = self._reader.once(
            lambda transaction: transaction.rows(self._statements.due_addresses(self._leaf, page))
        )
        tids = [tid for (tid,) in found]
        if not tids:
            self._idle += 1
        while tids:
            size = self._rows.size
            yield Rows(tuple(tids[:size]))
            tids = tids[size:]
        self._first = page.end
        self._row_by_row = len(found) > self._rows.size
        yield None
