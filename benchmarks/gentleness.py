"""What an app feels while the sweep is on: its latencies, alone and beside each way to clean."""

import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from benchmarks import ways
from benchmarks.database import Bench
from benchmarks.table import Row
from cleanup_pipeline.rules import EXPIRED_SESSIONS, OLD_DECLINES, ORPHANED_FINGERPRINTS
from cleanup_pipeline.sweep.pace import DEFAULT, FULL_SPEED, Pace

_RULES = (EXPIRED_SESSIONS, OLD_DECLINES, ORPHANED_FINGERPRINTS)
_WARM_UP_S = 3.0

Latencies = list[float]
Way = Callable[[Bench, str, float], None]


def latencies(bench: Bench, rows: int, seconds: float) -> Iterable[Row]:
    """The app's p50, p95 and p99 alone (twice: that is the noise), and beside each way."""
    template = bench.busy(rows)
    alone = [_beside(bench, template, seconds) for _ in range(2)]
    base = _percentiles(alone[0] + alone[1])
    yield from (_row(f"alone, time {number}", of, base, "") for number, of in enumerate(alone, 1))
    yield _row("default pace", _beside(bench, template, seconds, partial(_sweep, pace=DEFAULT)), base, "p99 ≤ 1.5")
    yield _row("full speed", _beside(bench, template, seconds, partial(_sweep, pace=FULL_SPEED)), base, "none")
    yield _row("one statement a rule", _beside(bench, template, seconds, _one_statement_each), base, "none")


def _row(what: str, latencies: Latencies, base: Sequence[float], limit: str) -> Row:
    each = _percentiles(latencies)
    measured = ", ".join(
        f"p{percent} {1000 * value:.1f} ms ({value / alone:.2f})"
        for percent, value, alone in zip((50, 95, 99), each, base, strict=True)
    )
    return Row(f"{what}, {len(latencies):,} transactions", measured, limit)


def _percentiles(latencies: Latencies) -> list[float]:
    ordered = sorted(latencies)
    return [ordered[int(len(ordered) * percent / 100)] for percent in (50, 95, 99)]


def _beside(bench: Bench, template: str, seconds: float, way: Way | None = None) -> Latencies:
    """The latencies of an app of which the transactions were due while `way` was on."""

    def work(url: str) -> Latencies:
        with subprocess.Popen(
            [sys.executable, "-m", "benchmarks.app", url, str(_WARM_UP_S + seconds)], stdout=subprocess.PIPE, text=True
        ) as app:
            time.sleep(_WARM_UP_S)
            began = time.monotonic()
            if way:
                way(bench, url, seconds)
            ended = time.monotonic() if way else math.inf
            printed, _ = app.communicate(timeout=60 + 20 * seconds)
        each = [tuple(map(float, line.split())) for line in printed.splitlines()]
        return [took for due, took in each if began <= due <= ended]

    return bench.on_a_copy(template, work)


def _sweep(bench: Bench, url: str, seconds: float, pace: Pace) -> None:
    for rule in _RULES:
        ways.sweep(url, rule, bench.as_of, pace, deadline_s=seconds / len(_RULES))


def _one_statement_each(bench: Bench, url: str, _: float) -> None:
    for rule in _RULES:
        ways.one_statement(url, rule, bench.as_of)
