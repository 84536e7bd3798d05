"""A webhook for tests: a real HTTP server on loopback, which answers as it is told."""

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

SECRET = "T0K3N-of-the-webhook"


@dataclass
class Webhook:
    """Its address, what it is to answer, and what it has received. `ended` is set when the server ends.

    Where it `hangs` nothing is answered; where it `drips` each byte comes in time, and the answer never.
    """

    url: str = ""
    status: int = 200
    location: str | None = None
    hangs: bool = False
    drips: bool = False
    received: list[dict[str, Any]] = field(default_factory=list)
    event_ids: list[str | None] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def texts(self) -> list[str]:
        return [body["text"] for body in self.received]


@contextmanager
def webhook(certificate: Path | None = None) -> Iterator[Webhook]:
    """Listen; with a certificate, by TLS."""
    hook = Webhook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            hook.received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            hook.event_ids.append(self.headers["Idempotency-Key"])
            if hook.hangs:
                hook.ended.wait(60)
            if hook.drips:
                self._drip()
                return
            self.send_response(hook.status)
            if hook.location:
                self.send_header("Location", hook.location)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _drip(self) -> None:
            try:
                while not hook.ended.wait(0.05):
                    self.wfile.write(b"H")
            except OSError:
                return

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that give up are expected
    server.daemon_threads = True
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    hook.url = f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_port}/services/{SECRET}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hook
    finally:
        hook.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()
