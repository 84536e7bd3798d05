"""A wire to the server that breaks at the worst moment: while a commit is under way."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal

from psycopg.conninfo import conninfo_to_dict

from cleanup_pipeline_tests.databases import name_of

_COMMIT = b"commit\0"
_WRITES = (b"delete from", b"update ")


class Wire:
    """Passes everything on, until a transaction that writes to a table is committed: there it breaks, `times` times.

    `at` says when: before the server has heard of the commit, or after it has carried it out and before we hear of it.
    """

    def __init__(self, server_url: str, at: Literal["before", "after"], times: int = 1) -> None:
        server = conninfo_to_dict(server_url)
        self._host, self._port = str(server.get("host") or "localhost"), int(server.get("port") or 5432)
        self._user, self._password = server.get("user"), server.get("password")
        self._at = at
        self.breaks_left = times
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def url(self, database_url: str) -> str:
        """The database's URL by way of this wire."""
        login = f"{self._user or ''}" + (f":{self._password}" if self._password else "")
        port = self._listener.getsockname()[1]
        return f"postgresql://{login}@127.0.0.1:{port}/{name_of(database_url)}?sslmode=disable&gssencmode=disable"

    def close(self) -> None:
        for one in (self._listener, *self._sockets):
            _close(one)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = self._connect()
                self._sockets += [client, server]
                broken = threading.Event()
                threading.Thread(target=self._send, args=(client, server, broken), daemon=True).start()
                threading.Thread(target=self._answer, args=(client, server, broken), daemon=True).start()

    def _connect(self) -> socket.socket:
        if not self._host.startswith("/"):
            return socket.create_connection((self._host, self._port))
        server = socket.socket(socket.AF_UNIX)
        server.connect(f"{self._host}/.s.PGSQL.{self._port}")
        return server

    def _send(self, client: socket.socket, server: socket.socket, broken: threading.Event) -> None:
        has_written = False
        with suppress(OSError):
            while data := client.recv(65536):
                has_written = has_written or any(verb in data for verb in _WRITES)
                if has_written and data.endswith(_COMMIT) and self.breaks_left:
                    self.breaks_left -= 1
                    if self._at == "before":
                        break
                    broken.set()
                    server.sendall(data)
                    return
                server.sendall(data)
        _close(client)
        _close(server)

    def _answer(self, client: socket.socket, server: socket.socket, broken: threading.Event) -> None:
        with suppress(OSError):
            while data := server.recv(65536):
                if broken.is_set():
                    break
                client.sendall(data)
        _close(client)
        _close(server)


def _close(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()


@contextmanager
def wire(server_url: str, at: Literal["before", "after"], times: int = 1) -> Iterator[Wire]:
    made = Wire(server_url, at, times)
    try:
        yield made
    finally:
        made.close()
