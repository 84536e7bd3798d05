"""`cleanup-pipeline dev`: Dagster's UI and daemon, on an embedded PostgreSQL where no URL is set."""

import os
import shlex
import signal
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Event

import click

from cleanup_pipeline.cli.errors import ExitCode
from cleanup_pipeline.cli.signals import interrupts
from cleanup_pipeline.sweep.result import Status

_VARIABLES = {"CLEANUP_DATABASE_URL": "after_hours", "DAGSTER_POSTGRES_URL": "dagster"}
_PLANTED_ROWS = 10_000
_LOOK_S = 0.2
_ENDS_WITHIN_S = 30.0


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Where the UI listens.")
@click.option("--port", type=click.IntRange(1, 65535), default=3000, show_default=True, help="Where the UI listens.")
def dev(host: str, port: int) -> None:
    """Run Dagster's UI and daemon.

    Schedule and sensor are live.

    Where CLEANUP_DATABASE_URL or DAGSTER_POSTGRES_URL is not set, an embedded PostgreSQL takes its place, gone when the
    command ends. With neither set, synthetic rows are planted and cleaned once, so that there are numbers to look at.
    """
    import tempfile

    from cleanup_pipeline.cli.home import make_home
    from cleanup_pipeline.demo.server import DemoUnavailableError

    try:
        interrupts.raise_them()
        _see_that_the_port_is_free(host, port)
        with ExitStack() as stack:
            home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cleanup-")))
            workspace = make_home(home)
            os.environ.setdefault("DAGSTER_HOME", str(home))
            os.environ.setdefault("CLEANUP_UI_URL", _address(host, port))
            _serve_what_is_missing(stack)
            sys.exit(_run_dagster(workspace, host, port))
    except DemoUnavailableError as unavailable:
        missing = " and ".join(name for name in _VARIABLES if not os.environ.get(name))
        click.echo(f"{missing} not set, and {unavailable}.", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _address(host: str, port: int) -> str:
    """Where the UI is found from this machine, if it listens there."""
    seen = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 -- what was asked for; nothing is bound
    return f"http://[{seen}]:{port}" if ":" in seen else f"http://{seen}:{port}"


def _see_that_the_port_is_free(host: str, port: int) -> None:
    """Exit with 2 where it is not: Dagster would serve nothing, and run on."""
    import socket

    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except OSError as error:
        click.echo(
            f"The UI can't listen on {host}:{port} ({error.strerror}). Choose another --host or --port.", err=True
        )
        sys.exit(2)


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
        # Nobody is to be called for synthetic rows.
        os.environ.pop("CLEANUP_ALERT_WEBHOOK_URL", None)
        _plant(os.environ["CLEANUP_DATABASE_URL"])
    if len(missing) == len(_VARIABLES):
        _clean_once()
    click.echo("For the other commands, in another terminal:", err=True)
    for name in (*missing, "DAGSTER_HOME", "CLEANUP_UI_URL"):
        click.echo(f"  export {name}={shlex.quote(os.environ[name])}", err=True)


def _clean_once() -> None:
    from cleanup_pipeline.cli.execution import Observed, execute
    from cleanup_pipeline.cli.options import request_for
    from cleanup_pipeline.cli.storage import find_storage

    request = request_for(full_speed=True, reason="cleanup-pipeline dev: something to look at")
    with find_storage(record=True).instance() as instance:
        report = execute(request, instance, Observed(request, Event(), recorded=True))
    for sentence in report.sentences():
        click.echo(sentence, err=True)
    if report.status is Status.INTERRUPTED:
        raise KeyboardInterrupt
    click.echo("Cleaned them once: the UI has the run and its numbers.", err=True)


def _plant(url: str) -> None:
    import psycopg

    from cleanup_pipeline.demo.data import plant
    from cleanup_pipeline.demo.schema import create_tables

    with psycopg.connect(url, autocommit=True) as connection:
        create_tables(connection)
        plant(connection, _PLANTED_ROWS)
    click.echo(f"Planted {_PLANTED_ROWS:,} synthetic rows a table.", err=True)


def _run_dagster(workspace: Path, host: str, port: int) -> int:
    """Run webserver and daemon until one of them ends, or we are told to end; both have then ended, with all theirs."""
    import subprocess

    modules = (("dagster_webserver", "-h", host, "-p", str(port)), ("dagster._daemon", "run"))
    # Each in a session of its own: Ctrl-C reaches us alone, and each of them once.
    processes = []
    try:
        for module in modules:
            command = [sys.executable, "-m", *module, "-w", str(workspace)]
            processes.append(subprocess.Popen(command, start_new_session=True))  # noqa: S603 -- our own arguments
        while all(process.poll() is None for process in processes):
            time.sleep(_LOOK_S)
        click.echo("Dagster's webserver or daemon has ended; see above.", err=True)
        return ExitCode.FAILED
    finally:
        for process in processes:
            process.send_signal(signal.SIGINT)
        for process in processes:
            with suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
                process.wait(_ENDS_WITHIN_S)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its code server, and runs
            process.wait()
