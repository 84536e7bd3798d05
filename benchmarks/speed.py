"""How long a sweep takes at full speed, beside the one big statement and the loop with LIMIT that do the same."""

import statistics
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial

import psycopg

from benchmarks import ways
from benchmarks.database import Bench
from benchmarks.table import Row, ratio
from cleanup_pipeline.rules import EXPIRED_SESSIONS, OLD_DECLINES, ORPHANED_FINGERPRINTS, RULES, Rule
from cleanup_pipeline.sweep.result import Result

_RULES = (EXPIRED_SESSIONS, OLD_DECLINES, ORPHANED_FINGERPRINTS)
# Where the loop has not ended after so many times what the sweep took, it is not waited for.
_PATIENCE = 12
_INDEX = "after_hours_sessions_active_expiry"


@dataclass
class _Measured:
    """The rounds of one rule."""

    single: list[ways.Taken] = field(default_factory=list)
    swept: list[tuple[Result, int]] = field(default_factory=list)
    disturbed: list[Result] = field(default_factory=list)


def against_one_statement(bench: Bench, rows: int, rounds: int) -> Iterable[Row]:
    """Each rule at full speed against the big statement and the loop: time, WAL, the longest transaction."""
    template = bench.busy(rows)
    measured = {rule.name: _measure(bench, template, rule, rounds) for rule in _RULES}
    for name, of in measured.items():
        yield Row(
            f"{name}, against one statement",
            ratio([ways.seconds(result) for result, _ in of.swept], [taken.seconds for taken in of.single]),
            f"≤ {1.15 if name == EXPIRED_SESSIONS.name else 1.25}",
        )
    declines = measured[OLD_DECLINES.name]
    yield Row(
        "old_declines, where somebody else writes meanwhile (a second walk)",
        ratio([ways.seconds(result) for result in declines.disturbed], [taken.seconds for taken in declines.single]),
        "≤ 1.25",
    )
    for name, of in measured.items():
        yield Row(f"{name}, WAL", ratio([wal for _, wal in of.swept], [taken.wal for taken in of.single]), "≤ 1.05")
    longest = max(result.longest_batch_ms or 0 for of in measured.values() for result, _ in of.swept)
    yield Row("longest writing transaction", f"{longest:.0f} ms", "≤ 250 ms")
    for rule in _RULES:
        swept = statistics.median(ways.seconds(result) for result, _ in measured[rule.name].swept)
        loop = partial(ways.limit_loop, rule=rule, as_of=bench.as_of, give_up_after_s=_PATIENCE * swept)
        looped = bench.on_a_copy(template, loop)
        faster = f"more than {_PATIENCE}" if looped is None else f"{looped.seconds / swept:.1f}"
        yield Row(f"{rule.name}, against a loop with LIMIT 1000", f"{faster} times as fast", "≥ 1.7")


def _measure(bench: Bench, template: str, rule: Rule, rounds: int) -> _Measured:
    measured = _Measured()
    for number in range(rounds):
        turns = [_single, _sweep] if number % 2 else [_sweep, _single]
        for turn in turns:
            turn(bench, template, rule, measured)
        if rule is OLD_DECLINES:
            bench.on_a_copy(template, lambda url: measured.disturbed.append(_disturbed(bench, url, rule)))
    return measured


def _single(bench: Bench, template: str, rule: Rule, into: _Measured) -> None:
    into.single.append(bench.on_a_copy(template, lambda url: ways.one_statement(url, rule, bench.as_of)))


def _sweep(bench: Bench, template: str, rule: Rule, into: _Measured) -> None:
    into.swept.append(bench.on_a_copy(template, lambda url: ways.sweep(url, rule, bench.as_of)))


def _disturbed(bench: Bench, url: str, rule: Rule) -> Result:
    """A transaction of somebody else's is open when the sweep begins: it can't know what that one will write."""
    with psycopg.connect(url) as app:
        app.execute("insert into users (id, provider) values ('somebody', 'apple')")
        return ways.sweep(url, rule, bench.as_of)[0]


def guarded(bench: Bench, rows: int) -> Iterable[Row]:
    """The rules that a foreign key guards, in a run of all rules, and each as the only one."""
    template = bench.clean(rows)
    guarded = [rule for rule in RULES if rule.orphan_of]

    def in_runs(url: str) -> list[float]:
        runs = [ways.sweep_all(url, bench.as_of) for _ in range(5)]
        return [ways.seconds(run[rule.name]) for run in runs for rule in guarded]

    def alone(url: str) -> list[float]:
        return [ways.seconds(ways.sweep(url, rule, bench.as_of)[0]) for rule in guarded for _ in range(5)]

    for what, measure, limit in (("in a run", in_runs, "≤ 20 ms"), ("alone, on a new connection", alone, "none")):
        took = statistics.median(bench.on_a_copy(template, measure))
        yield Row(f"a rule that a foreign key guards, {rows:,} rows, {what}", f"{1000 * took:.0f} ms", limit)


def few_due(bench: Bench, rows: int, rounds: int) -> Iterable[Row]:
    """1,000 due rows of many, by the index and by a walk; and of four times as many."""
    small, large = bench.thousand("small", rows), bench.thousand("large", 4 * rows)
    by_index, by_walk, in_large, plain, plain_walk = [list[float]() for _ in range(5)]
    for _ in range(rounds):
        by_index.append(bench.on_a_copy(small, lambda url: _few(bench, url)))
        by_walk.append(bench.on_a_copy(small, lambda url: _few(bench, url, index=False)))
        in_large.append(bench.on_a_copy(large, lambda url: _few(bench, url)))
        plain.append(bench.on_a_copy(small, lambda url: _few(bench, url, sweeps=False)))
        plain_walk.append(bench.on_a_copy(small, lambda url: _few(bench, url, index=False, sweeps=False)))
    bench.drop("large")
    yield Row(f"1,000 due of {rows:,}, by the index against a walk", ratio(by_index, by_walk), "≤ 0.45")
    yield Row("the same of the plain statement", ratio(plain, plain_walk), "none")
    yield Row(f"1,000 due of {4 * rows:,} against of {rows:,}", ratio(in_large, by_index), "≤ 1.3")


def _few(bench: Bench, url: str, *, index: bool = True, sweeps: bool = True) -> float:
    if not index:
        with psycopg.connect(url, autocommit=True) as app:
            app.execute(f"drop index {_INDEX}".encode())
    if not sweeps:
        return ways.one_statement(url, EXPIRED_SESSIONS, bench.as_of).seconds
    return ways.seconds(ways.sweep(url, EXPIRED_SESSIONS, bench.as_of)[0])


_PEAK = """
import resource, sys
from datetime import datetime
from benchmarks import ways
from cleanup_pipeline.rules import {rule} as rule
result, _ = ways.sweep(sys.argv[1], rule, datetime.fromisoformat(sys.argv[2]), max_share=1.0)
print(result.affected, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def memory(bench: Bench, few: int = 10_000, many: int = 5_000_000) -> Iterable[Row]:
    """The client's memory at its highest, where few rows are cleaned and where many are."""
    templates = bench.all_due("few", few), bench.all_due("many", many)
    for rule in ("OLD_DECLINES", "ORPHANED_FINGERPRINTS"):
        peaks = [bench.on_a_copy(template, partial(_peak, bench, rule)) for template in templates]
        (little, low), (much, high) = peaks
        yield Row(
            f"{rule.lower()}, the client's memory, {much:,} rows against {little:,}",
            f"{(high - low) / 1024:+.1f} MB to {low / 1024:.0f}",
            "≤ +10 MB",
        )
    bench.drop("many")


def _peak(bench: Bench, rule: str, url: str) -> tuple[int, int]:
    """Rows that were cleaned by a process of its own, and its memory in KiB."""
    done = subprocess.run(
        [sys.executable, "-c", _PEAK.format(rule=rule), url, bench.as_of.isoformat()],
        check=True,
        capture_output=True,
        text=True,
    )
    affected, peak = done.stdout.split()
    return int(affected), int(peak)
