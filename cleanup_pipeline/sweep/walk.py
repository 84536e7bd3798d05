"""The walk over a table's blocks: from the first to the last, each page once, with no index and no memory.

It writes windows of pages where rows are due, no more rows than fit where it can't tell what comes, and only reads
where windows change nothing: what a window costs whatever its size is then spared.
"""

from collections import deque
from collections.abc import Iterator

from cleanup_pipeline.postgres import Transaction
from cleanup_pipeline.sweep.catalog import Leaf
from cleanup_pipeline.sweep.pace import Pace, Stride
from cleanup_pipeline.sweep.reader import LEAST_PAGE_S, PAGES_AT_FIRST, Reader
from cleanup_pipeline.sweep.statements import IN_BLOCK_ORDER, Blocks, Statements

_LEAST_WRITTEN_PAGE_S = 20e-6
# What a row is believed to cost before one was cleaned.
_ROW_S = 100e-6
# As narrow as rows can be; of a table that was never analyzed that much has to be expected.
_MOST_ROWS_A_PAGE = 300
_MUCH = 1.5
# A page that takes so many times the length of a window is taken in several.
_DEAR = 4
# More rows than any page holds: where a window does not end, a trigger brings its rows back.
_ENDLESS_ROWS_A_PAGE = 2_000
# Where a share of the rows was due, windows are cut so that one where all are takes twice as long as it should.
# Where that would cut them to less than half, as many pages are taken as fit, and no more rows than fit.
_TOO_LONG = 2.0
_FEW = 0.25
_REMEMBERED = 8
# Looking for the next due row is worth a few windows: where one is met soon, the walk gives up later the next time.
_IDLE_WINDOWS, _MOST_IDLE_WINDOWS = 2, 64
_NEAR = 4
_LONGEST_LOOK_S = 0.2


def page_stride(pace: Pace, first: int = 1) -> Stride:
    """How many pages a window covers. It begins with few: what their rows cost is not known."""
    return Stride(pace.window_s, first, _LEAST_WRITTEN_PAGE_S)


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
        (rows_a_page,) = reader.once(lambda transaction: transaction.one(statements.rows_a_page(leaf)))
        self._rows_a_page = float(rows_a_page or _MOST_ROWS_A_PAGE)
        sets_off_more = statements.target.triggers or statements.target.scanned_pages
        fitting = 1 if sets_off_more else int(pace.window_s / (_ROW_S * self._rows_a_page))
        self._pages = page_stride(pace, max(1, fitting))
        self._looks = Stride(min(pace.slice_s, _LONGEST_LOOK_S), first=PAGES_AT_FIRST, floor_s=LEAST_PAGE_S)
        self._patience = self._idle = _IDLE_WINDOWS
        self._row_s = _ROW_S
        self._last = deque[tuple[int, int]](maxlen=_REMEMBERED)  # windows: rows changed, of so many pages
        self._due_share = 0.0
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
                window = self._window
                self._first = window.end
                yield window

    @property
    def _window(self) -> Blocks:
        most = None
        if (self._due_share < _FEW or self._dear_row_s) and not self._to_end:
            most = max(1, round(_MUCH * self._pace.window_s / (self._dear_row_s or self._row_s)))
        return Blocks(self._first, min(self._first + self._pages.size, self._end), most)

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
        if window.most and changed >= window.most and self._changed <= _ENDLESS_ROWS_A_PAGE * pages:
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
        self._due_share = self._share_due(self._changed, pages)
        cut = 1.0 if self._due_share < _FEW else min(1.0, _TOO_LONG * self._due_share)
        self._pages.target_s = cut * self._pace.window_s
        self._pages.took(pages, self._seconds)
        self._dear_row_s = self._dear_row_s if is_dear else None
        self._changed, self._seconds = 0, 0.0

    def _share_due(self, changed: int, pages: int) -> float:
        """Which share of the rows was due where the walk has been last; a short window may have met it by chance."""
        self._last.append((changed, pages))
        self._rows_a_page = max(self._rows_a_page, changed / pages)
        lately = sum(changed for changed, _ in self._last) / sum(pages for _, pages in self._last)
        return min(changed / pages, lately) / self._rows_a_page

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
