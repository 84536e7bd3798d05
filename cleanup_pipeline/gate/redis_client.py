"""Asking a Redis server a few questions: read only, within a limit of time whatever it does, and told in our words."""

import re
import ssl
import threading
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import urlsplit

from cleanup_pipeline.gate.signals import one_line

if TYPE_CHECKING:
    import redis

LONGEST_LOOK_S = 2.0
"""How long all questions together may take, names and certificates included."""

_LONGEST_WAIT_S = 1.5
_MOST_ROUNDS = 4

_FORBIDDEN = re.compile("no permissions to run the '([^']+)'")

Command = tuple[str | bytes | int, ...]
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class RedisUnavailableError(Exception):
    """A look at Redis came to nothing. Its text says where and why, for a person, and holds no password."""


class Transact(Protocol):
    """Sends commands in one MULTI transaction."""

    def __call__(self, commands: Sequence[Command], *, tolerant: bool = False) -> list[Any]:
        """Return one reply a command. Raises where any of them is an error; `tolerant`: returns that in its place."""


class Questions(Protocol[T_co]):
    """What to ask. Asked anew from the start where the answer is that another node of a cluster knows."""

    def __call__(self, transact: Transact, *, clustered: bool) -> T_co:
        """Ask by `transact`; `clustered`: the server is a node of a cluster, where a key's braces tell its node."""


def ask(url: str, questions: Questions[T], variable: str) -> T:
    """Ask the server at `url` (the value of `variable`) and return what the questions make of it.

    Raises `RedisUnavailableError` for whatever goes wrong, `LONGEST_LOOK_S` after the start at the latest.
    """
    if find_spec("redis") is None:
        raise RedisUnavailableError(
            f"{variable} is set and the Python package redis is missing: pip install 'cleanup-pipeline[bullmq]'"
        )
    server = _Server(url, variable)
    return server.ask(questions)


class _Server:
    """One server, and the nodes of its cluster that it sends us to."""

    def __init__(self, url: str, variable: str) -> None:
        try:
            self._settings: dict[str, Any] = {**_parsed(url), **_limits()}
            self._pools = [self._pool()]
        except Exception:
            # What it says may be a part of the password.
            raise RedisUnavailableError(
                f"{variable} can't be understood: it is redis://, rediss:// or unix:// with user:password@host:port/db "
                f"and options that the Python package redis knows; percent-encode special characters in the password"
            ) from None

    def ask(self, questions: Questions[T]) -> T:
        """Ask in a thread of its own: no timeout of a socket bounds a resolver, or a server that drips."""
        answers: list[T] = []
        errors: list[Exception] = []
        done = threading.Event()

        def do() -> None:
            try:
                answers.append(self._ask(questions))
            except Exception as error:
                errors.append(error)
            finally:
                done.set()

        threading.Thread(target=do, name="redis", daemon=True).start()
        in_time = done.wait(LONGEST_LOOK_S)
        # Also ends the thread, where it still waits for the server.
        self._disconnect()
        if not in_time:
            raise RedisUnavailableError(f"{self._place}: no answer within {LONGEST_LOOK_S:g} s")
        if errors:
            raise RedisUnavailableError(self._told(errors[0])) from None
        return answers[0]

    def _ask(self, questions: Questions[T]) -> T:
        """Ask, and follow where a cluster sends us."""
        import redis.exceptions

        clustered = False
        for _ in range(_MOST_ROUNDS):
            try:
                return questions(self._transact, clustered=clustered)
            except redis.exceptions.MovedError as moved:
                # The key is another one in a cluster, so that the first such answer tells nothing of where it is.
                if clustered:
                    self._settings["host"] = moved.host or self._settings.get("host", "localhost")
                    self._settings["port"] = moved.port
                    self._pools.append(self._pool())
                clustered = True
            except redis.exceptions.ClusterCrossSlotError:
                if clustered:
                    break
                clustered = True
        raise RedisUnavailableError(
            f"{self._place} is a cluster, where no node has all of the queue: MESSAGE_CLEANUP_REDIS_PREFIX must be in "
            "braces, such as {bull}"
        )

    def _transact(self, commands: Sequence[Command], *, tolerant: bool = False) -> list[Any]:
        import redis

        client = redis.Redis(connection_pool=self._pools[-1])
        client.response_callbacks.clear()  # replies as the server sends them, in every version of the package
        with client.pipeline(transaction=True) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            replies = pipeline.execute(raise_on_error=False)
        for command, reply in zip(commands, replies, strict=True):
            if isinstance(reply, Exception) and not tolerant:
                key = command[1].decode("utf-8", "replace") if isinstance(command[1], bytes) else command[1]
                raise redis.ResponseError(f"{key}: {reply}") from reply
        return replies

    def _pool(self) -> "redis.ConnectionPool":
        """Make a pool of connections and look, without connecting, whether one can be made."""
        import redis.connection

        settings = {"connection_class": redis.connection.Connection, **self._settings}
        pool = redis.ConnectionPool(**settings)
        pool.make_connection()
        return pool

    def _disconnect(self) -> None:
        for pool in list(self._pools):
            pool.disconnect()

    @property
    def _place(self) -> str:
        if path := self._settings.get("path"):
            return str(path)
        return f"{self._settings.get('host', 'localhost')}:{self._settings.get('port', 6379)}"

    def _told(self, error: Exception) -> str:
        if isinstance(error, RedisUnavailableError):
            return str(error)
        reason = self._forbidden(error) or _reason(error, is_socket="path" in self._settings)
        return f"{self._place}: {self._without_password(reason)}"

    def _forbidden(self, error: Exception) -> str | None:
        """Say which command the user may not use, if it is that, and what grants it."""
        said = str(error)
        # A MULTI that was refused shows only at its end.
        command = "multi" if "EXEC without MULTI" in said else None
        if forbidden := _FORBIDDEN.search(said):
            command = one_line(forbidden[1])
        if command is None:
            return None
        user = self._settings.get("username") or "default"
        return f"its user may not use {command.upper()}; grant it: ACL SETUSER {user} +{command}"

    def _without_password(self, text: str) -> str:
        password = self._settings.get("password")
        return text.replace(str(password), "…") if password else text


def _parsed(url: str) -> dict[str, Any]:
    """Take the URL apart. Raises `ValueError`, whose text may hold a password, where it can't be meant as it stands.

    With one of `/ ? #` unencoded in it, a part of the password would be taken for the host or the port, and be told.
    """
    import redis.connection

    parts = urlsplit(url)
    after_authority = f"{parts.path}?{parts.query}"
    if parts.fragment or "@" in after_authority:
        raise ValueError
    if parts.scheme != "unix" and not re.fullmatch("/?[0-9]*", parts.path):
        raise ValueError
    return dict(redis.connection.parse_url(url))


def _limits() -> dict[str, Any]:
    """Whatever the URL asks for: no retry, no endless wait, and replies in one known form."""
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return {
        "socket_connect_timeout": _LONGEST_WAIT_S,
        "socket_timeout": _LONGEST_WAIT_S,
        "retry": Retry(NoBackoff(), 0),
        "retry_on_timeout": False,
        "retry_on_error": [],
        "health_check_interval": 0,
        "max_connections": 10,
        "protocol": 2,
        "decode_responses": False,
        "encoding": "utf-8",
    }


def _reason(error: Exception, *, is_socket: bool) -> str:
    """Say in a few words what went wrong."""
    import redis.exceptions as errors

    said = one_line(re.sub(r"^Command # \d+ \(.*?\) of pipeline caused error: ", "", str(error))).removesuffix(".")
    for cause in _causes(error):
        if isinstance(cause, FileNotFoundError) and not is_socket:
            return "a file that the URL names in one of its ssl options is missing"
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is refused, {cause.verify_message}"
        if isinstance(cause, ssl.SSLError):
            return f"TLS fails, {cause.reason or one_line(str(cause))}"
    if isinstance(error, errors.AuthenticationError | errors.AuthorizationError):
        return f"it refuses the login, {said}"
    if isinstance(error, errors.BusyLoadingError):
        return "it is still loading its data"
    if isinstance(error, errors.NoPermissionError):
        return f"its user may not read the queue, {said}"
    if isinstance(error, errors.TimeoutError | TimeoutError):
        return f"no answer within {_LONGEST_WAIT_S} s"
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
    return said or type(error).__name__


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
