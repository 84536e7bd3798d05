"""All that is measured: `python -m benchmarks`. Takes half an hour, and wants a machine that does nothing else."""

import argparse
import os
import platform
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks import command, gentleness, speed
from benchmarks.database import Bench, bench
from benchmarks.table import Row, show


def main() -> None:
    """Measure what was asked for, and print it as tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help="speed, few, guarded, memory, command, app; all")
    parser.add_argument("--rows", type=int, default=1_000_000, help="in each table (default 1,000,000)")
    parser.add_argument("--rounds", type=int, default=5, help="of which the median is taken (default 5)")
    parser.add_argument("--seconds", type=float, default=60, help="that the app works beside each way (default 60)")
    given = parser.parse_args()
    tables: dict[str, tuple[str, Callable[[Bench], Iterable[Row]]]] = {
        "speed": (
            f"full speed, {given.rows:,} rows a table",
            lambda on: speed.against_one_statement(on, given.rows, given.rounds),
        ),
        "few": ("few rows are due", lambda on: speed.few_due(on, given.rows, given.rounds)),
        "guarded": ("nothing can be orphaned", lambda on: speed.guarded(on, given.rows)),
        "memory": ("memory", speed.memory),
        "command": ("nothing to clean", lambda on: command.nothing_to_clean(on, given.rows, given.rounds)),
        "app": (
            f"what an app feels, {given.rows:,} rows a table",
            lambda on: gentleness.latencies(on, given.rows, given.seconds),
        ),
    }
    if unknown := set(given.tables) - set(tables):
        parser.error(f"no such table: {', '.join(sorted(unknown))}; there are {', '.join(tables)}")
    for name in given.tables or tables:
        with bench() as on:
            if name == (given.tables or list(tables))[0]:
                print(f"On {_machine()}, PostgreSQL {on.admin.info.server_version // 10_000}:")
            show(*_titled(on, tables[name]))


def _titled(on: Bench, table: tuple[str, Callable[[Bench], Iterable[Row]]]) -> tuple[str, Iterable[Row]]:
    title, measure = table
    return title, measure(on)


def _machine() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores ({_processor()}), {memory:.0f} GB, {platform.system()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
