"""`cleanup-pipeline demo`: the whole pipeline on a server of its own, with known numbers to clean."""

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cleanup_pipeline.cli.signals import interrupts

if TYPE_CHECKING:
    from psycopg import Connection

    from cleanup_pipeline.demo.data import Planted
    from cleanup_pipeline.demo.server import EmbeddedServer
    from cleanup_pipeline.sweep.result import Result

AFTER_HOURS = "after_hours"
DAGSTER = "dagster"


@click.command()
@click.option("--rows", type=click.IntRange(1, 100_000_000), default=100_000, show_default=True, help="Rows a table.")
def demo(rows: int) -> None:
    """Clean a database made for it, and show the counts.

    Starts an embedded PostgreSQL, makes After Hours' tables without the foreign keys that would keep orphans from
    existing, fills them with synthetic rows, and runs the job through Dagster. Nothing is left behind. Ends with 1 if
    the counts are not the ones that were planted.
    """
    import tempfile

    from cleanup_pipeline.demo.server import DemoUnavailableError, embedded_server

    try:
        interrupts.raise_them()
        with embedded_server(durable=False) as server, tempfile.TemporaryDirectory(prefix="cleanup-") as folder:
            sys.exit(_show(server, Path(folder), rows))
    except DemoUnavailableError as unavailable:
        click.echo(f"The demo can't start: {unavailable}.", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        click.echo("The demo was interrupted; its server is gone.", err=True)
        sys.exit(130)


def _show(server: "EmbeddedServer", folder: Path, rows: int) -> int:
    import psycopg

    from cleanup_pipeline.cli.home import make_home
    from cleanup_pipeline.demo.data import counts

    make_home(folder)
    os.environ["CLEANUP_DATABASE_URL"] = server.create_database(AFTER_HOURS)
    os.environ["DAGSTER_POSTGRES_URL"] = server.create_database(DAGSTER)
    os.environ["DAGSTER_HOME"] = str(folder)
    with psycopg.connect(os.environ["CLEANUP_DATABASE_URL"], autocommit=True) as connection:
        planted = _plant(connection, rows)
        before = counts(connection)
        results, succeeded = _clean()
        after = counts(connection)
    _print(before, after, planted, results)
    wrong = _differences(planted, after, results)
    for line in wrong:
        click.echo(line, err=True)
    if not succeeded and any(result.status == "interrupted" for result in results.values()):
        return 130
    if wrong or not succeeded:
        click.echo("The demo failed: the counts are not the ones that were planted.", err=True)
        return 1
    click.echo("Every count is the one that was planted. Matches and messages were not touched.")
    return 0


def _plant(connection: "Connection[tuple[Any, ...]]", rows: int) -> "Planted":
    from cleanup_pipeline.demo.data import plant
    from cleanup_pipeline.demo.schema import create_tables

    click.echo(f"Embedded PostgreSQL {connection.info.server_version // 10000} is up.")
    click.echo(
        "Made the schema, without the foreign keys on fingerprints, profiles and preferences: orphans can exist."
    )
    create_tables(connection)
    with _timed(f"Planted {rows:,} synthetic rows a table"):
        return plant(connection, rows)


def _clean() -> "tuple[Mapping[str, Result], bool]":
    """Report message cleanup, then run the job through Dagster on PostgreSQL storage."""
    from dagster import AssetMaterialization

    from cleanup_pipeline.cli.storage import find_storage
    from cleanup_pipeline.definitions import defs
    from cleanup_pipeline.defs.assets import MESSAGE_CLEANUP
    from cleanup_pipeline.defs.resources import Observer

    observer = Observer()
    with find_storage(record=True).instance() as instance:
        instance.report_runless_asset_event(
            AssetMaterialization(MESSAGE_CLEANUP.key, metadata={"finished_at": datetime.now(UTC).isoformat()})
        )
        click.echo("Reported message cleanup as done; running the job session_cleanup through Dagster.")
        with _timed("The job ran"):
            outcome = defs.resolve_job_def("session_cleanup").execute_in_process(
                instance=instance,
                raise_on_error=False,
                resources={"observer": observer},
                run_config={
                    # Nobody but us works on this server.
                    "resources": {"cleanup_run": {"config": {"full_speed": True}}},
                    "loggers": {"console": {"config": {"log_level": "ERROR"}}},
                },
                tags={"cleanup/trigger": "manual", "cleanup/reason": "demo"},
            )
    return observer.results, outcome.success


@contextmanager
def _timed(what: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    click.echo(f"{what} ({time.monotonic() - began:.1f} s).")


def _print(
    before: Mapping[str, int], after: Mapping[str, int], planted: "Planted", results: "Mapping[str, Result]"
) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from cleanup_pipeline.rules import RULES_ON, Close

    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    table = Table("rule", "table", box=box.SIMPLE)
    for heading in ("rows before", "planted to clean", "cleaned", "rows after"):
        table.add_column(heading, justify="right")
    table.add_column("done")
    for rule in RULES_ON:
        result = results.get(rule.name)
        table.add_row(
            rule.name,
            rule.table.name,
            f"{before[rule.table.name]:,}",
            f"{planted.due[rule.name]:,}",
            f"{result.affected:,}" if result else "-",
            f"{after[rule.table.name]:,}",
            "closed" if isinstance(rule.action, Close) else "deleted",
        )
    for untouched in ("after_hours_matches", "after_hours_messages", "users"):
        table.add_row("-", untouched, f"{before[untouched]:,}", "0", "0", f"{after[untouched]:,}", "never touched")
    console.print(table)


def _differences(planted: "Planted", after: Mapping[str, int], results: "Mapping[str, Result]") -> list[str]:
    cleaned = {name: result.affected for name, result in results.items()}
    return [
        *(
            f"{name}: {due:,} rows were planted to clean, {cleaned.get(name, 0):,} were cleaned."
            for name, due in planted.due.items()
            if cleaned.get(name) != due
        ),
        *(
            f"{table}: {kept:,} rows should be left, {after[table]:,} are."
            for table, kept in planted.kept.items()
            if after[table] != kept
        ),
    ]
