"""A real PgBouncer in transaction mode before the tests' server."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict

from cleanup_pipeline.demo import server as demo
from cleanup_pipeline_tests.databases import name_of
from cleanup_pipeline_tests.servers import skip_or_fail

_PLACES = "/usr/sbin:/usr/local/bin:/usr/local/sbin:/opt/homebrew/bin"
_START_S = 20.0


class PgBouncer:
    """At most three server connections for each database, whatever number of clients there is."""

    def __init__(self, program: str, folder: Path, server_url: str) -> None:
        server = conninfo_to_dict(server_url)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self._command = [program, str(folder / "ini")]
        self._log = folder / "log"
        password = f" password={server['password']}" if server.get("password") else ""
        (folder / "ini").write_text(
            f"""
[databases]
* = host={server.get("host") or "localhost"} port={server.get("port") or 5432} user={server.get("user")}{password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {self._port}
unix_socket_dir =
auth_type = any
admin_users = admin
pool_mode = transaction
default_pool_size = 3
logfile = {self._log}
pidfile = {folder / "pid"}
"""
        )
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, database_url: str) -> str:
        """The database's URL by way of the pooler."""
        return f"postgresql://postgres@127.0.0.1:{self._port}/{name_of(database_url)}"

    def start(self) -> None:
        account = demo._Account.of_server()
        account.own(self._log.parent)
        self._process = subprocess.Popen(
            self._command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            **account.process(),
        )
        deadline = time.monotonic() + _START_S
        while pq.PGconn.ping(f"host=127.0.0.1 port={self._port} dbname=pgbouncer user=admin".encode()) != pq.Ping.OK:
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, "PgBouncer does not start"
            time.sleep(0.02)

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()

    def disable(self, database_url: str) -> None:
        """Take nobody new to a database, and close what there is."""
        console = f"host=127.0.0.1 port={self._port} dbname=pgbouncer user=admin"
        name = name_of(database_url)
        with psycopg.connect(console, autocommit=True) as connection:
            connection.execute(f"disable {name}".encode())
            connection.execute(f"kill {name}".encode())


@contextmanager
def pgbouncer(server_url: str) -> Iterator[PgBouncer]:
    """Run PgBouncer while the block runs; skip the test where there is none."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path=_PLACES)
    if program is None:
        skip_or_fail("PgBouncer is not here: apt-get install pgbouncer")
    with demo._temporary_folder() as name:
        demo._Account.of_server().reach(Path(name).parent)
        pooler = PgBouncer(program, Path(name), server_url)
        pooler.start()
        try:
            yield pooler
        finally:
            pooler.kill()
