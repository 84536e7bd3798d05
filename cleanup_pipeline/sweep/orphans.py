"""Cleaning by a rule of which the rows are orphans: they are judged, counted against the fuse, and taken.

Behind a pooler there can be no temporary table of what was judged: each slice is judged and taken by itself.
"""

import time
from collections.abc import Generator, Iterator
from functools import partial

from cleanup_pipeline.sweep import judgement
from cleanup_pipeline.sweep.catalog import Leaf
from cleanup_pipeline.sweep.finding import RefusedError
from cleanup_pipeline.sweep.fuse import Fuse, count_rows, scans
from cleanup_pipeline.sweep.reader import CandidatesLostError
from cleanup_pipeline.sweep.result import Progress
from cleanup_pipeline.sweep.statements import (
    ANALYZE_CANDIDATES,
    LAST_CANDIDATE,
    NO_CANDIDATE,
    Blocks,
    Candidates,
    Rows,
    Scope,
)
from cleanup_pipeline.sweep.walk import page_stride
from cleanup_pipeline.sweep.window import Leftovers
from cleanup_pipeline.sweep.work import MOST_PASSES, Gathered, Work


class OrphanedRows:
    """The orphans of one rule. `clean` them once; then `any_kept` tells whether something keeps some."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._not_taken: list[tuple[Leaf, Scope]] = []
        self._brought_back = False

    def clean(self) -> Iterator[Progress]:
        """Judge and take them, in as many passes as it takes. Raises `RefusedError` where the fuse blows."""
        work = self._work
        result, budget = work.result, work.options.budget
        passes = 0
        previous: int | None = None
        while passes < MOST_PASSES:
            before = result.affected
            work.writer.leftovers = Leftovers()
            doubtful: list[tuple[Leaf, Scope]] = []
            try:
                if work.session.pooled:
                    orphans = yield from self._judge_and_take_each_slice(doubtful)
                else:
                    orphans = yield from self._judge_and_take(doubtful)
                if not budget.spent:
                    work.writer.retry_locked()
                left = sum(work.count(leaf, scope) for leaf, scope in doubtful)
            except CandidatesLostError:
                continue  # as often as the reader reconnects
            passes += 1
            taken = result.affected - before
            # Neither taken nor there as judged: rows that moved and perhaps are orphans still, or were never reached.
            unknown = max(0, orphans - taken - left)
            if work.target.triggers and taken:
                # Of what a trigger brings back only another look can tell.
                unknown = max(0, (yield from self._count()).rows - left)
            self._not_taken = [window for window in doubtful if window not in work.writer.leftovers.locked]
            self._brought_back = unknown > 0
            result.remaining = left + unknown
            stuck = previous is not None and result.remaining >= previous
            if not unknown or stuck or budget.spent:
                return
            previous = result.remaining

    def any_kept(self) -> bool:
        """Whether a row stays that nobody has locked."""
        return self._brought_back or any(self._work.is_kept(leaf, scope) for leaf, scope in self._not_taken)

    def _judge_and_take(self, doubtful: list[tuple[Leaf, Scope]]) -> Generator[Progress, None, int]:
        work = self._work
        judged = yield from self._judge()
        orphans = sum(part.rows for part in judged)
        try:
            yield from self._check_fuse(orphans)
        except RefusedError as refused:
            raise RefusedError(f"{refused} {self._when(judged)}") from None
        work.tell(scans(orphans, work.target.scanned_pages, work.target.rule.table))
        taken = 0
        for part in judged:
            for share in work.take(part, doubtful):
                yield work.progress("windows", (taken + share * part.rows) / orphans)
            taken += part.rows
        return orphans

    def _when(self, judged: list[Gathered]) -> str:
        part = max(judged, key=lambda part: part.rows)
        candidates = Candidates(part.after, part.last, part.rows)
        oldest, newest = self._work.ask(self._work.statements.ages(part.leaf, candidates))
        return judgement.Orphans(part.rows, oldest, newest).when

    def _judge(self) -> Generator[Progress, None, list[Gathered]]:
        work = self._work
        work.reader.once(work.make_candidates, writes=True)
        work.reader.keep_judged()
        judged = []
        after = NO_CANDIDATE
        slices = 0
        for leaf in work.target.leaves:
            rows = 0
            for share, found in work.reader.slices(
                work.statements,
                leaf,
                partial(judgement.judge, work.statements),
                judged=True,
                at_once=not work.target.parent_is_indexed,
            ):
                rows += found
                slices += 1
                work.stop_when_late()
                yield work.progress("judging", share)
            last, _ = work.ask(LAST_CANDIDATE)
            judged.append(Gathered(leaf, after, last, rows))
            after = last
        work.reader.once(lambda transaction: transaction.run(ANALYZE_CANDIDATES), writes=True, judged=True)
        work.result.access = f"judged in {slices:,} slice{'s' if slices != 1 else ''}, then by address"
        return judged

    def _judge_and_take_each_slice(self, doubtful: list[tuple[Leaf, Scope]]) -> Generator[Progress, None, int]:
        work = self._work
        counted = yield from self._count()
        orphans = counted.rows
        try:
            yield from self._check_fuse(orphans)
        except RefusedError as refused:
            raise RefusedError(f"{refused} {counted.when}") from None
        work.tell(scans(orphans, work.target.scanned_pages, work.target.rule.table))
        work.result.access = "judged and taken slice by slice: a pooler stands before the server"
        ceiling = work.result.affected + orphans
        for leaf in work.target.leaves:
            pages = work.reader.pages(work.statements, leaf)
            stride = page_stride(work.options.pace, work.reader.far_s)
            first = 0
            while first < pages and not work.options.budget.spent and work.result.affected < ceiling:
                blocks = Blocks(first, min(first + stride.size, pages))
                began = time.monotonic()
                pairs = self._pairs(leaf, blocks)[: ceiling - work.result.affected]
                judging_s, working_s, waiting_s = time.monotonic() - began, 0.0, 0.0
                if pairs:
                    tids, references = zip(*pairs, strict=True)
                    window = Rows(tids, references)
                    changed, working_s, waiting_s = work.write(leaf, window)
                    if changed < len(pairs):
                        doubtful.append((leaf, window))
                stride.took(blocks.end - first, judging_s + working_s)
                first = blocks.end
                yield work.progress("windows", first / pages)
                for _ in work.rest(judging_s + working_s, waiting_s):
                    yield work.progress("windows", first / pages)
        return orphans

    def _count(self) -> Generator[Progress, None, judgement.Orphans]:
        work = self._work
        orphans = judgement.Orphans()
        for leaf in work.target.leaves:
            for share, found in work.reader.slices(
                work.statements,
                leaf,
                partial(judgement.count, work.statements),
                at_once=not work.target.parent_is_indexed,
            ):
                orphans += found
                yield work.progress("judging", share)
        return orphans

    def _pairs(self, leaf: Leaf, blocks: Blocks) -> list[tuple[str, bytes]]:
        statements = self._work.statements
        return self._work.reader.once(lambda transaction: judgement.judged(statements, transaction, leaf, blocks))

    def _check_fuse(self, orphans: int) -> Iterator[Progress]:
        """Count rows until there are enough of them, or all. Raises `RefusedError` where the fuse blows."""
        work, rule = self._work, self._work.target.rule
        taken = work.result.affected
        fuse = Fuse(rule.max_share if work.options.max_share is None else work.options.max_share)
        rows = taken
        for share, found in count_rows(work.reader, work.statements, fuse.rows_needed(orphans + taken) - taken):
            rows += found
            yield work.progress("counting", share)
        fuse.check(orphans + taken, rows, rule.table)
