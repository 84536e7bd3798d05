"""The walk over a table's blocks: from the first to the last, with no index and no memory; few are read twice.

It writes windows of pages where rows are due, no more rows than fit where it can't tell what comes, and only reads
where windows change nothing: what a window costs whatever its size is then spared.
"""

import threading
from collections import deque
from collections.abc import Generator, Iterator

from cleanup_pipeline.postgres import Transaction
from cleanup_pipeline.sweep.catalog import Leaf
from cleanup_pipeline.sweep.pace import Pace, Stride
from cleanup_pipeline.sweep.reader import LEAST_PAGE_S, PAGES_AT_FIRST, Reader
from cleanup_pipeline.sweep.statements import IN_BLOCK_ORDER, Blocks, Statements
from cleanup_pipeline.sweep.work import Work

_LEAST_WRITTEN_PAGE_S, _LEAST_ROW_S = 20e-6, 1e-6
# What a row is believed to cost before one was cleaned.
_ROW_S = 100e-6
# A limited window takes rows for so many windows' time.
_MUCH = 1.5
# A page whose rows would fill more windows than that is taken in several.
_DEAR = 5
# As narrow as rows can be. Of a table that was never analyzed so many are expected; and of a page from which more
# come a trigger brings them back.
_MOST_ROWS_A_PAGE = 300
# Where a share of the rows was due, windows are cut so that one where all are takes twice as long as it should.
# Where that would cut them to less than half, as many pages are taken as fit, and no more rows than fit.
_TOO_LONG = 2.0
_FEW = 0.25
_REMEMBERED = 8
# Looking for the next due row is worth a few windows: where one is met soon, the walk gives up later the next time.
_IDLE_WINDOWS, _MOST_IDLE_WINDOWS = 2, 64
_NEAR = 4
_LONGEST_LOOK_S = 0.2
# Of n walks each takes 1/(4 n) of what is left, and at least 1/256 of the table.
_SECTIONS_EACH = 4
_MOST_SECTIONS = 256


def page_stride(pace: Pace, far_s: float, first: int = 1) -> Stride:
    """How many pages a window covers. It begins with few: what their rows cost is not known."""
    return Stride(pace.window_s, first, _LEAST_WRITTEN_PAGE_S, far_s)


class Sections:
    """The blocks of a table, handed out from the first to the last: to one walk as a whole, to several piece by piece.

    Of several, each gets a part of what is left, the smaller the later it asks, so that all end at once.
    """

    def __init__(self, pages: int, walks: int = 1) -> None:
        self._pages = pages
        self._walks = walks
        self._next = self._done = 0
        self._given_back: list[Blocks] = []
        self._lock = threading.Lock()

    @property
    def share(self) -> float:
        """How much of the table is done, by whomever."""
        return self._done / self._pages if self._pages else 1.0

    def take(self) -> Blocks | None:
        """The next section; None where there is none."""
        with self._lock:
            if self._given_back:
                return self._given_back.pop()
            first, left = self._next, self._pages - self._next
            if not left:
                return None
            size = left if self._walks == 1 else left // (_SECTIONS_EACH * self._walks)
            self._next += min(left, max(size, self._pages // _MOST_SECTIONS, 1))
            return Blocks(first, self._next)

    def note_done(self, pages: int) -> None:
        """Note that so many pages are done."""
        with self._lock:
            self._done += pages

    def give_back(self, section: Blocks) -> None:
        """Leave what is not done of a section to the next who asks."""
        with self._lock:
            if section.first < section.end:
                self._given_back.append(section)


class Walk:
    """One walk over `sections` of `leaf`. Iterate for its windows, and tell what each `took` before the next.

    None comes in a window's place where the walk has only read.
    """

    def __init__(self, leaf: Leaf, sections: Sections, statements: Statements, reader: Reader, pace: Pace) -> None:
        self._leaf = leaf
        self._sections = sections
        self._statements = statements
        self._reader = reader
        self._pace = pace
        self._first = self._end = 0
        (rows_a_page,) = reader.once(lambda transaction: transaction.one(statements.rows_a_page(leaf)))
        self._rows_a_page = float(rows_a_page or _MOST_ROWS_A_PAGE)
        at_first = 1
        if not (statements.target.triggers or statements.target.scanned_pages):
            fitting_s = max(_LEAST_WRITTEN_PAGE_S, _ROW_S * self._rows_a_page)
            at_first = max(1, int(pace.window_s / fitting_s))
        far_s = reader.far_s
        self._pages = page_stride(pace, far_s, at_first)
        self._rows = Stride(pace.window_s, max(1, round(_MUCH * pace.window_s / _ROW_S)), _LEAST_ROW_S, far_s)
        self._first_due = statements.first_due(leaf).as_bytes()
        self._looks = Stride(min(pace.slice_s, _LONGEST_LOOK_S), PAGES_AT_FIRST, LEAST_PAGE_S, far_s)
        self._patience = self._idle = _IDLE_WINDOWS
        self._row_s = _ROW_S
        self._last = deque[tuple[int, int]](maxlen=_REMEMBERED)  # windows: rows changed, of so many pages
        self._due_share = 0.0
        # Of the pages that are taken in several windows: rows and seconds so far.
        self._changed, self._seconds = 0, 0.0
        self._is_dear = False
        self._to_end = False

    def __iter__(self) -> Iterator[Blocks | None]:
        while self._is_on():
            if self._idle >= self._patience:
                yield from self._read_on()
            else:
                yield self._window

    @property
    def left(self) -> Blocks:
        """What is not done of the section under way."""
        return Blocks(self._first, self._end)

    def _is_on(self) -> bool:
        """Whether there is something left; goes on to the next section at the end of one."""
        if self._first == self._end and (section := self._sections.take()):
            self._first, self._end = section.first, section.end
        return self._first < self._end

    def _go_to(self, block: int) -> None:
        self._sections.note_done(block - self._first)
        self._first = block

    @property
    def _window(self) -> Blocks:
        most = None
        if self._is_dear and not self._to_end:
            most = self._rows.size
        elif self._due_share < _FEW and not self._to_end:
            most = max(1, round(_MUCH * self._pace.window_s / self._row_s))
        return Blocks(self._first, min(self._first + self._pages.size, self._end), most)

    def took(self, window: Blocks, changed: int, seconds: float) -> None:
        """Learn how many rows a window changed and how long that took."""
        pages = window.end - window.first
        self._changed += changed
        self._seconds += seconds
        if changed:
            self._row_s = min(self._row_s, seconds / changed)
        if changed and pages == 1:
            self._rows.took(changed, seconds)
        is_dear = pages == 1 and self._changed > _DEAR * self._rows.full
        # Of the rows that were picked somebody may have changed a few meanwhile.
        is_full = window.most is not None and changed >= window.most - window.most // 8
        if is_full and self._changed <= max(_MOST_ROWS_A_PAGE, 2 * self._rows_a_page) * pages:
            # There may be more of them: once more, and by small steps.
            self._is_dear |= is_dear
            if pages > 1:
                self._pages = page_stride(self._pace, self._reader.far_s)
                self._changed, self._seconds = 0, 0.0
            return
        # A trigger may keep the very rows that were picked: what else there is is taken without picking.
        self._to_end = bool(window.most and self._statements.target.triggers)
        if self._to_end:
            return
        self._go_to(window.end)
        self._idle = 0 if self._changed else self._idle + 1
        self._is_dear = is_dear
        self._due_share = self._share_due(self._changed, pages)
        cut = 1.0 if self._due_share < _FEW else min(1.0, _TOO_LONG * self._due_share)
        self._pages.target_s = cut * self._pace.window_s
        self._pages.took(pages, self._seconds)
        self._changed, self._seconds = 0, 0.0

    def _share_due(self, changed: int, pages: int) -> float:
        """Which share of the rows was due where the walk has been last; a short window may have met it by chance."""
        self._last.append((changed, pages))
        self._rows_a_page = max(self._rows_a_page, min(changed / pages, _MOST_ROWS_A_PAGE))
        lately = sum(changed for changed, _ in self._last) / sum(pages for _, pages in self._last)
        return min(changed / pages, lately) / self._rows_a_page

    def _read_on(self) -> Iterator[None]:
        """Go to the next block with a row that is due, or to the section's end, behind which the next look goes on."""
        before = self._first

        def look(transaction: Transaction, _: Leaf, blocks: Blocks) -> int | None:
            transaction.run(IN_BLOCK_ORDER)
            found = transaction.rows(self._first_due, blocks.bounds, prepared=True)
            return int(found[0][0]) if found else None

        for blocks, block in self._reader.read(self._leaf, self.left, look, self._looks):
            if block is None:
                self._go_to(blocks.end)
                yield
                continue
            self._go_to(block)
            near = block - before < _NEAR * self._pages.size
            self._patience = min(2 * self._patience, _MOST_IDLE_WINDOWS) if near else _IDLE_WINDOWS
            self._idle = 0
            return


def write_windows(work: Work, leaf: Leaf, sections: Sections) -> Generator[None, None, None]:
    """Clean `leaf` on a walk, window by window. What it leaves of a section, however it ends, is given back."""
    walk = Walk(leaf, sections, work.statements, work.reader, work.options.pace)
    try:
        for window in walk:
            if work.options.budget.spent:
                return
            if window is None:
                yield
                continue
            changed, working_s, waiting_s = work.write(leaf, window)
            walk.took(window, changed, working_s)
            yield
            for _ in work.rest(working_s, waiting_s):
                yield
    finally:
        sections.give_back(walk.left)
