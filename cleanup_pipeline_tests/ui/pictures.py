"""Takes the README's pictures: `python -m cleanup_pipeline_tests.ui.pictures`, from the root of the checkout.

Three weeks of nights are run on an embedded PostgreSQL, one of them missed, one refused; then a real browser looks at
the real UI. The terminal is the output of the real command.
"""

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
from contextlib import suppress
from pathlib import Path

import psycopg
from dagster import AssetMaterialization, DagsterInstance
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

from cleanup_pipeline.defs.assets import MESSAGE_CLEANUP
from cleanup_pipeline.demo.schema import create_tables
from cleanup_pipeline.demo.server import embedded_server
from cleanup_pipeline_tests.ui import pages
from cleanup_pipeline_tests.ui.browser import browser
from cleanup_pipeline_tests.ui.deployment import CHECKOUT, deployment, make_home
from cleanup_pipeline_tests.ui.nights import plant_for_nights, run_night
from cleanup_pipeline_tests.ui.test_browser import refused_night

IMAGES = CHECKOUT / "docs" / "images"
_NIGHTS, _MISSED, _REFUSED = 21, 9, 5
_ROWS = 20_000
_COLUMNS = 134
# A picture loads nothing from anywhere.
_SVG = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)


def main() -> None:
    """Take them all."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    _photograph_terminal()
    with embedded_server(durable=False) as server, tempfile.TemporaryDirectory(prefix="cleanup-") as folder:
        database, storage = server.create_database("after_hours"), server.create_database("dagster")
        home = make_home(Path(folder), storage)
        with psycopg.connect(database, autocommit=True) as connection:
            create_tables(connection)
            plant_for_nights(database, _ROWS, _NIGHTS + 5)
            connection.execute("analyze")
        run_id = _run_nights(home, database)
        _photograph_pages(home, database, run_id)


def _run_nights(home: Path, database: str) -> str:
    with DagsterInstance.from_config(str(home)) as instance:
        for days_ago in reversed(range(_NIGHTS)):
            if days_ago == _REFUSED:
                refused_night(database, instance, days_ago)
            elif days_ago != _MISSED:
                run_id = run_night(database, instance, days_ago)
        instance.report_runless_asset_event(AssetMaterialization(MESSAGE_CLEANUP.key))
    return run_id


def _photograph_pages(home: Path, database: str, run_id: str) -> None:
    with deployment(home, database) as server, browser() as page:
        page.size(1400, 1400)
        pages.open_graph(page, server)
        page.photograph(IMAGES / "graph.png", 1400, 1400, 0.7)
        pages.open_plots(page, server, "declines")
        page.photograph(IMAGES / "plots.png", 1400, 1400, 0.7)
        page.size(1400, 1000)
        pages.open_check(page, server, "declines", "backlog")
        page.photograph(IMAGES / "check.png", 1400, 800, 0.7)
        pages.open_run(page, server, run_id)
        page.photograph(IMAGES / "run.png", 1400, 1000, 0.7)
        pages.open_last_nights(page, server, "preferences")
        page.photograph(IMAGES / "nights.png", 1400, 900, 0.7)


def _photograph_terminal() -> None:
    """What the README's first command prints on a terminal."""
    console = Console(width=_COLUMNS, record=True, file=io.StringIO())
    console.print(Text.assemble(("$ ", "bold green"), ".venv/bin/cleanup-pipeline demo"))
    console.print(Text.from_ansi(_on_a_terminal("demo")))
    console.save_svg(str(IMAGES / "terminal.svg"), title="cleanup-pipeline demo", code_format=_SVG)


def _on_a_terminal(*arguments: str) -> str:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, _COLUMNS, 0, 0))
    command = [sys.executable, "-m", "cleanup_pipeline.cli", *arguments]
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "COLUMNS": str(_COLUMNS)}
    )
    os.close(theirs)
    told = b""
    with suppress(OSError):  # the terminal's other end is closed
        while part := os.read(ours, 65536):
            told += part
    assert process.wait() == 0, told.decode()
    return told.decode().replace("\r\n", "\n")


if __name__ == "__main__":
    main()
