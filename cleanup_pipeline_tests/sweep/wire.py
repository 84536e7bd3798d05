"""A wire between clients and the server that breaks at the worst moment, or that does worse than break."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum, auto
from typing import Literal, TypeVar

from psycopg.conninfo import conninfo_to_dict

from cleanup_pipeline_tests.databases import name_of

_COMMIT = b"commit\0"
_WRITES = (b"delete from", b"update ")

At = Literal["before", "during", "after"]


class Then(Enum):
    """What becomes of a message, and of the connection that it belongs to."""

    PASS = auto()
    BREAK = auto()  # the message is lost, and both ends hear that the connection is closed
    SWALLOW = auto()  # from now on nothing passes in either direction, and nobody hears of it


class Wire:
    """Passes everything on; what is derived from it does not.

    `request` is asked of each message of a client, before the server hears of it, `answer` of the server's answer to
    it, before the client does. A client sends one message at a time, and waits for its answer.
    """

    def __init__(self, server_url: str) -> None:
        server = conninfo_to_dict(server_url)
        self._host, self._port = str(server.get("host") or "localhost"), int(server.get("port") or 5432)
        self._user, self._password = server.get("user"), server.get("password")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def request(self, link: "Link", message: bytes) -> Then:  # noqa: ARG002 -- for those who derive
        return Then.PASS

    def answer(self, link: "Link") -> Then:  # noqa: ARG002 -- for those who derive
        return Then.PASS

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
                self._sockets.append(client)
                try:
                    server = self._connect()
                except OSError:
                    _close(client)  # as it is for a client while the server is down
                    continue
                self._sockets.append(server)
                Link(self, client, server)

    def _connect(self) -> socket.socket:
        if not self._host.startswith("/"):
            return socket.create_connection((self._host, self._port))
        server = socket.socket(socket.AF_UNIX)
        server.connect(f"{self._host}/.s.PGSQL.{self._port}")
        return server


class Link:
    """One connection by way of a wire."""

    def __init__(self, wire: Wire, client: socket.socket, server: socket.socket) -> None:
        self._client, self._server = client, server
        self._swallows = False
        self.has_written = False
        for pass_on in (
            lambda: self._pass_on(client, server, lambda message: wire.request(self, message)),
            lambda: self._pass_on(server, client, lambda _: wire.answer(self)),
        ):
            threading.Thread(target=pass_on, daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, asked: Callable[[bytes], Then]) -> None:
        with suppress(OSError):
            while message := source.recv(1 << 20):
                match Then.SWALLOW if self._swallows else asked(message):
                    case Then.PASS:
                        sink.sendall(message)
                    case Then.BREAK:
                        break
                    case Then.SWALLOW:
                        self._swallows = True
        if not self._swallows:
            _close(self._client)
            _close(self._server)


class BreaksAtCommits(Wire):
    """Breaks where a transaction that writes to a table is committed, `times` times, and does `strike` then.

    `at` says when: before the server has heard of the commit, or after it has carried it out and before we hear of it.
    """

    def __init__(
        self,
        server_url: str,
        at: Literal["before", "after"],
        times: int = 1,
        strike: Callable[[], object] = lambda: None,
    ) -> None:
        self._at = at
        self._strike = strike
        self._committing: Link | None = None
        self.breaks_left = times
        super().__init__(server_url)

    def request(self, link: Link, message: bytes) -> Then:
        link.has_written = link.has_written or any(verb in message for verb in _WRITES)
        if not (link.has_written and message.endswith(_COMMIT) and self.breaks_left):
            return Then.PASS
        self.breaks_left -= 1
        if self._at == "before":
            self._strike()
            return Then.BREAK
        self._committing = link
        return Then.PASS

    def answer(self, link: Link) -> Then:
        if link is not self._committing:
            return Then.PASS
        self._strike()
        return Then.BREAK


class Fault(Wire):
    """Counts the messages of all clients, and does `strike` at the `moment`th, which tells what becomes of that one.

    `at` says when: before the server hears of the message, while it works on it, or before the client hears of it.
    """

    def __init__(
        self,
        server_url: str,
        moment: int | None = None,
        at: At = "before",
        strike: Callable[[], Then] = lambda: Then.PASS,
    ) -> None:
        self._moment, self._at, self._strike = moment, at, strike
        self._struck: Link | None = None
        self.requests = 0
        self.struck = threading.Event()
        super().__init__(server_url)

    def request(self, link: Link, message: bytes) -> Then:  # noqa: ARG002 -- all count
        self.requests += 1
        if self.requests != self._moment:
            return Then.PASS
        if self._at == "before":
            return self._do()
        if self._at == "during":
            threading.Thread(target=self._do, daemon=True).start()
        else:
            self._struck = link
        return Then.PASS

    def answer(self, link: Link) -> Then:
        if link is not self._struck:
            return Then.PASS
        self._struck = None
        return self._do()

    def _do(self) -> Then:
        then = self._strike()
        self.struck.set()
        return then


def _close(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()


W = TypeVar("W", bound=Wire)


@contextmanager
def laid(wire: W) -> Iterator[W]:
    """Let a wire be used while the block runs."""
    try:
        yield wire
    finally:
        wire.close()


@contextmanager
def wire(server_url: str, at: Literal["before", "after"], times: int = 1) -> Iterator[BreaksAtCommits]:
    with laid(BreaksAtCommits(server_url, at, times)) as made:
        yield made
