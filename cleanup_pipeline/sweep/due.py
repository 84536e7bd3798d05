"""Cleaning by a rule of which the condition is on the row itself.

Due rows are reached by an index or by a walk. A look at what remains ends the pass, and where rows have moved behind
the walk, another pass takes them.
"""

from collections.abc import Generator, Iterator

from cleanup_pipeline.postgres import Row, Transaction
from cleanup_pipeline.sweep import access
from cleanup_pipeline.sweep.catalog import Leaf
from cleanup_pipeline.sweep.fuse import scans
from cleanup_pipeline.sweep.moment import earliest
from cleanup_pipeline.sweep.reader import CandidatesLostError
from cleanup_pipeline.sweep.result import Progress
from cleanup_pipeline.sweep.statements import ANALYZE_CANDIDATES, LAST_CANDIDATE, NO_CANDIDATE, Blocks
from cleanup_pipeline.sweep.walk import Sections, write_windows
from cleanup_pipeline.sweep.window import Leftovers
from cleanup_pipeline.sweep.witness import Witness
from cleanup_pipeline.sweep.work import MOST_PASSES, Gathered, Work
from cleanup_pipeline.sweep.worker import worth_sharing, write_together


class DueRows:
    """The due rows of one rule. `clean` them once; then `any_kept` tells whether something keeps some."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._stay_unlocked = False

    def clean(self) -> Iterator[Progress]:
        """Clean them, in as many passes as it takes."""
        work, target = self._work, self._work.target
        result, budget = work.result, work.options.budget
        if target.scanned_pages:
            due = yield from self._look()
            work.tell(scans(due, target.scanned_pages, target.rule.table))
        passes = 0
        previous: int | None = None
        was_tried = False
        while passes < MOST_PASSES:
            before = result.affected
            work.writer.leftovers = Leftovers()
            witness = Witness(work.reader, work.session)
            try:
                for number, leaf in enumerate(target.leaves):
                    yield from self._clean_leaf(leaf, number)
                work.writer.retry_locked()
                left = self._count_left()
            except CandidatesLostError:
                continue  # as often as the reader reconnects
            passes += 1
            done = not (left or target.triggers or budget.spent)
            result.remaining = 0 if done and witness.saw_nobody() else (yield from self._look())
            self._stay_unlocked = result.remaining > left
            if not self._stay_unlocked or budget.spent:
                return
            # What is no fewer than before is brought back by a trigger.
            if previous is not None and result.remaining >= previous:
                return
            # A trigger keeps what no pass changes, unless it was locked for a moment: it is tried once more.
            if result.affected == before:
                if was_tried or not target.triggers:
                    return
                was_tried = True
            else:
                previous = result.remaining

    def any_kept(self) -> bool:
        """Whether a row stays that nobody has locked."""
        work = self._work
        return self._stay_unlocked and any(
            work.is_kept(leaf, Blocks(0, max(1, work.reader.pages(work.statements, leaf))))
            for leaf in work.target.leaves
        )

    def _clean_leaf(self, leaf: Leaf, number: int) -> Iterator[Progress]:
        work, leaves = self._work, len(self._work.target.leaves)
        way = access.choose(work.reader, work.statements, leaf)
        work.result.oldest = earliest(work.result.oldest, way.oldest)
        work.writer.asks_age = way.oldest is None
        # What the first pass chose is what the rule's time went into.
        work.result.access = work.result.access or (way.why if leaves == 1 else f"{way.why} ({leaves} partitions)")
        if way.index is None or (work.session.pooled and way.due):
            done = self._walk(leaf)
        elif way.due:
            done = self._take_gathered(leaf, way.due)
        else:
            return
        for share in done:
            yield work.progress("windows", (number + share) / leaves)

    def _walk(self, leaf: Leaf) -> Iterator[float]:
        work = self._work
        pages = work.reader.pages(work.statements, leaf)
        shared = worth_sharing(work, pages)
        sections = Sections(pages, walks=2 if shared else 1)
        for _ in (write_together if shared else write_windows)(work, leaf, sections):
            yield sections.share

    def _take_gathered(self, leaf: Leaf, due: int) -> Iterator[float]:
        work = self._work

        def gather(transaction: Transaction) -> Row:
            work.make_candidates(transaction)
            transaction.change(work.statements.gather(leaf, due))  # for the witness: it takes a transaction id
            transaction.run(ANALYZE_CANDIDATES)
            return transaction.one(LAST_CANDIDATE)

        last, rows = work.reader.once(gather, writes=True)
        work.reader.keep_judged()
        yield from work.take(Gathered(leaf, NO_CANDIDATE, last, rows), [])

    def _look(self) -> Generator[Progress, None, int]:
        """Count what is due now."""
        work = self._work
        remaining = 0
        for leaf in work.target.leaves:
            way = access.choose(work.reader, work.statements, leaf)
            for share, due, oldest in access.count_due(work.reader, work.statements, leaf, way):
                remaining += due
                work.result.oldest = earliest(work.result.oldest, oldest)
                if way.due is None:  # it takes a while
                    yield work.progress("looking at what remains", share)
        return remaining

    def _count_left(self) -> int:
        """How many due rows there are in windows that could not be completed."""
        leftovers = self._work.writer.leftovers
        return sum(self._work.count(leaf, scope) for leaf, scope in leftovers.locked + leftovers.spoilt)
