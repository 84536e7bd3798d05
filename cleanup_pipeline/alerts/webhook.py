"""Posting to a webhook, within a limited time, whatever it does.

The webhook's address is a secret: no message of this module holds it, nor the text of an error that may.
"""

import http.client
import json
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from email.message import Message
from functools import partial
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPHandler, HTTPRedirectHandler, HTTPSHandler, OpenerDirector, Request, build_opener

EVENT_ID_HEADER = "Idempotency-Key"


class NotAcknowledgedError(Exception):
    """The webhook did not say 2xx; the message says what happened, without its address.

    `final` where asking it for something else would come to the same.
    """

    def __init__(self, message: str, *, final: bool) -> None:
        super().__init__(message)
        self.final = final


def post(url: str, text: str, event_id: str, within_s: float) -> None:
    """Post `{"text": …}`, the event's id as a header, and wait for a 2xx. Raises `NotAcknowledgedError`.

    It takes no longer than `within_s`, name resolution and a body that drips included: what takes longer is left to a
    thread, whose connection is shut.
    """
    connections: list[http.client.HTTPConnection] = []
    outcome: list[NotAcknowledgedError | None] = []
    thread = threading.Thread(
        target=lambda: outcome.append(_posted(url, text, event_id, within_s, connections)), name="alert", daemon=True
    )
    thread.start()
    thread.join(within_s)
    if not outcome:
        for connection in connections:
            _shut(connection)
        raise NotAcknowledgedError(f"the webhook did not answer within {within_s:.1f} s", final=True)
    if outcome[0] is not None:
        raise outcome[0]


def _posted(
    url: str, text: str, event_id: str, within_s: float, connections: list[http.client.HTTPConnection]
) -> NotAcknowledgedError | None:
    if not _is_http(url):
        return NotAcknowledgedError("the webhook's address is no http or https URL", final=True)
    request = Request(  # noqa: S310 -- http or https, see above
        url,
        json.dumps({"text": text}).encode(),
        {"Content-Type": "application/json", EVENT_ID_HEADER: event_id, "User-Agent": "cleanup-pipeline"},
    )
    try:
        with _opener(connections).open(request, timeout=within_s):
            return None
    except HTTPError as error:
        error.close()
        redirects = ", which is not followed: give its final address" if 300 <= error.code < 400 else ""
        return NotAcknowledgedError(f"the webhook answered {error.code}{redirects}", final=False)
    except Exception as error:
        return NotAcknowledgedError(_why(error), final=True)


def _is_http(url: str) -> bool:
    try:
        return urlsplit(url).scheme in ("http", "https")
    except ValueError:
        return False


def _why(error: Exception) -> str:
    reason = error.reason if isinstance(error, URLError) else error
    if isinstance(reason, ssl.SSLCertVerificationError):
        return "the webhook's certificate is not trusted"
    if isinstance(reason, TimeoutError):
        return "the webhook did not answer in time"
    kind = type(reason if isinstance(reason, BaseException) else error).__name__
    return f"the webhook can't be reached ({kind})"


def _opener(connections: list[http.client.HTTPConnection]) -> OpenerDirector:
    """Of urllib, which knows proxies; it follows no redirect, and keeps its connections where they can be shut."""
    return build_opener(_Http(connections), _Https(connections), _NotFollowing)


class _NotFollowing(HTTPRedirectHandler):
    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage | Message, newurl: str
    ) -> None:
        """Follow none: a redirect is no acknowledgement, and may lead anywhere."""


class _Http(HTTPHandler):
    def __init__(self, connections: list[http.client.HTTPConnection]) -> None:
        super().__init__()
        self._connections = connections

    def http_open(self, req: Request) -> http.client.HTTPResponse:
        return self.do_open(partial(_kept, self._connections, http.client.HTTPConnection), req)


class _Https(HTTPSHandler):
    def __init__(self, connections: list[http.client.HTTPConnection]) -> None:
        super().__init__()
        self._connections = connections

    def https_open(self, req: Request) -> http.client.HTTPResponse:
        made = partial(_kept, self._connections, http.client.HTTPSConnection)
        return self.do_open(made, req, context=ssl.create_default_context())


def _kept(
    connections: list[http.client.HTTPConnection],
    kind: Callable[..., http.client.HTTPConnection],
    host: str,
    **options: Any,
) -> http.client.HTTPConnection:
    connections.append(kind(host, **options))
    return connections[-1]


def _shut(connection: http.client.HTTPConnection) -> None:
    """End whatever the thread waits for."""
    opened: socket.socket | None = connection.sock
    with suppress(OSError):
        if opened is not None:
            opened.shutdown(socket.SHUT_RDWR)
