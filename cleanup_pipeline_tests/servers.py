"""Servers that tests start themselves: other versions than the demo's, and ones that may be crashed."""

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import pytest

from cleanup_pipeline.demo import server as demo

# Set in CI: what a test needs and does not find there is a failure.
REQUIRE_ALL = bool(os.environ.get("CLEANUP_TEST_REQUIRE_ALL"))

SYSTEMS_15 = Path("/usr/lib/postgresql/15/bin")

_OLDER = [16, *([15] if SYSTEMS_15.exists() else [])]

# For tests of what differs between versions: the run's own server (18), 16.2, and the system's 15 where there is one.
on_each_server = pytest.mark.parametrize(
    "server_url",
    [pytest.param(None, id="18"), *(pytest.param(major, id=str(major)) for major in _OLDER)],
    indirect=True,
    scope="session",
)
on_older_servers = pytest.mark.parametrize("server_url", _OLDER, ids=str, indirect=True, scope="session")


def skip_or_fail(reason: str) -> NoReturn:
    """Skip a test for want of a program, or fail it where everything must be there."""
    if REQUIRE_ALL:
        pytest.fail(f"{reason} (CLEANUP_TEST_REQUIRE_ALL is set)")
    pytest.skip(reason)


def programs_of(major: int) -> Path:
    """The folder of the programs of PostgreSQL 15 (the system's), 16 (pgserver's 16.2) or 18 (the demo's)."""
    if major == 18:
        return demo._programs()
    if major == 15:
        return SYSTEMS_15
    spec = find_spec("pgserver")  # importing it would warn, and leave a lock file behind
    for place in (spec and spec.submodule_search_locations) or ():
        return Path(place) / "pginstall" / "bin"
    if sys.version_info >= (3, 13) or platform.machine() == "aarch64":
        pytest.skip("PostgreSQL 16.2 is not here: pgserver has no wheel for this Python or machine")
    skip_or_fail("PostgreSQL 16.2 is not here: pip install pgserver")


@dataclass(eq=False)
class Server:
    """A server on a unix socket, that forgets nothing when it is crashed, but does not wait for the disk."""

    programs: Path
    folder: Path

    @property
    def url(self) -> str:
        return demo.EmbeddedServer(self.folder).url()

    def start(self) -> None:
        settings = f"-c listen_addresses= -c unix_socket_directories={self.folder} -c fsync=off -c max_connections=100"
        self._pg_ctl("start", "-l", str(self.folder / "log"), "-o", settings)

    def crash(self) -> None:
        """Stop it without a word to anybody: at its start it recovers."""
        self._pg_ctl("stop", "-m", "immediate")

    def _pg_ctl(self, what: str, *options: str) -> None:
        _run(self.programs / "pg_ctl", what, "-w", "-D", str(self.folder / "cluster"), *options)


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=60, **demo._Account.of_server().process())


@contextmanager
def server(major: int) -> Iterator[Server]:
    """Run a fresh server of this major version."""
    programs, account = programs_of(major), demo._Account.of_server()
    with demo._temporary_folder(for_socket=True) as name:
        folder = Path(name)
        account.own(folder)
        account.reach(programs)
        options = ("-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
        _run(programs / "initdb", *options, "-D", folder / "cluster")
        made = Server(programs, folder)
        made.start()
        try:
            yield made
        finally:
            made.crash()
