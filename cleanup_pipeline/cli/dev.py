"""`cleanup-pipeline dev`: Dagster's UI and daemon, on an embedded PostgreSQL where no URL is set."""

import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path

import click

from cleanup_pipeline.cli.signals import interrupts

_VARIABLES = {"CLEANUP_DATABASE_URL": "after_hours", "DAGSTER_POSTGRES_URL": "dagster"}
_PLANTED_ROWS = 10_000


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Where the UI listens.")
@click.option("--port", type=click.IntRange(1, 65535), default=3000, show_default=True, help="Where the UI listens.")
def dev(host: str, port: int) -> None:
    """Run Dagster's UI and daemon.

    Schedule and sensor are live.

    Where CLEANUP_DATABASE_URL or DAGSTER_POSTGRES_URL is not set, an embedded PostgreSQL takes its place, with a few
    synthetic rows to clean; it is gone when the command ends.
    """
    import tempfile

    from cleanup_pipeline.cli.home import make_home
    from cleanup_pipeline.demo.server import DemoUnavailableError

    try:
        interrupts.raise_them()
        with ExitStack() as stack:
            home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cleanup-")))
            workspace = make_home(home)
            _serve_what_is_missing(stack)
            os.environ.setdefault("DAGSTER_HOME", str(home))
            sys.exit(_run_dagster(workspace, host, port))
    except DemoUnavailableError as unavailable:
        missing = " and ".join(name for name in _VARIABLES if not os.environ.get(name))
        click.echo(f"{missing} not set, and {unavailable}.", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _serve_what_is_missing(stack: ExitStack) -> None:
    missing = [name for name in _VARIABLES if not os.environ.get(name)]
    if not missing:
        return
    from cleanup_pipeline.demo.server import embedded_server

    server = stack.enter_context(embedded_server(durable=False))
    for name in missing:
        os.environ[name] = server.create_database(_VARIABLES[name])
        click.echo(f"{name} is not set: an embedded PostgreSQL serves the database {_VARIABLES[name]}.", err=True)
    if "CLEANUP_DATABASE_URL" in missing:
        _plant(os.environ["CLEANUP_DATABASE_URL"])


def _plant(url: str) -> None:
    import psycopg

    from cleanup_pipeline.demo.data import plant
    from cleanup_pipeline.demo.schema import create_tables

    with psycopg.connect(url, autocommit=True) as connection:
        create_tables(connection)
        plant(connection, _PLANTED_ROWS)
    click.echo(f"Planted {_PLANTED_ROWS:,} synthetic rows a table.", err=True)


def _run_dagster(workspace: Path, host: str, port: int) -> int:
    """Run `dagster dev` until it ends or we are told to; it is waited for: its children end before the server."""
    import subprocess

    command = [sys.executable, "-m", "dagster", "dev", "-w", str(workspace), "-h", host, "-p", str(port)]
    # In a session of its own: Ctrl-C reaches us alone, and it once.
    process = subprocess.Popen(command, start_new_session=True)  # noqa: S603 -- our own arguments
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            process.kill()
            process.wait()
        return 130
