"""What becomes of a look at Redis when the server, the way to it or the URL is not as it should be."""

import importlib.util
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis

from cleanup_pipeline.gate import redis_client
from cleanup_pipeline.gate.bullmq import MessageCleanupJobs
from cleanup_pipeline.gate.signals import Signal, listen
from cleanup_pipeline_tests.bullmq import bullmq, free_port, leave, redis_server, until, url_of

NOW = datetime(2026, 11, 24, 4, tzinfo=UTC)
JOB = "repeat:daily-cleanup:1795489200000"
FIELDS = {"name": "cleanup-expired-messages", "processedOn": "1795489200100", "finishedOn": "1795489204123"}
READ_ONLY = "+@read +@connection +multi +exec +discard +info +time -keys"


def heard(url: str, prefix: str | None = None, now: datetime = NOW) -> Signal:
    signals = listen([MessageCleanupJobs(url, prefix)], now)
    return next((signal for signal in signals if signal.state != "waiting"), signals[0])


def trouble(url: str, prefix: str | None = None) -> str:
    """What is told of a Redis that can't be looked at."""
    signal = heard(url, prefix)
    assert signal.state == "unreachable"
    assert signal.detail is not None
    return signal.detail


def succeed(connection: redis.Redis) -> None:
    """Leave a success of today."""
    leave(connection, "completed", JOB, 1795489204123, FIELDS)


# The way to it.


def test_the_longest_look_leaves_a_tick_within_its_three_seconds() -> None:
    assert redis_client.LONGEST_LOOK_S < 3


def test_a_server_that_refuses_is_told() -> None:
    port = free_port()

    assert trouble(f"redis://127.0.0.1:{port}") == f"127.0.0.1:{port}: Connection refused"
    assert trouble("unix:///no/such/socket") == "/no/such/socket: No such file or directory"


def test_a_name_that_can_not_be_resolved_is_told() -> None:
    assert trouble("redis://redis.invalid").startswith("redis.invalid:6379: ")


def test_a_resolver_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    end = threading.Event()

    def hang(*_: object, **__: object) -> list[Any]:
        end.wait(60)
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", hang)

    assert trouble("redis://redis.internal") == "redis.internal:6379: no answer within 2 s"
    end.set()


@pytest.fixture
def listener() -> Iterator[Callable[[Callable[[socket.socket], None]], str]]:
    """Makes a host of its own; gives its URL."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve(answer: Callable[[socket.socket], None]) -> str:
        def take() -> None:
            try:
                while True:
                    connection, _ = listening.accept()
                    threading.Thread(target=answer, args=(connection,), daemon=True).start()
            except OSError:
                return

        threading.Thread(target=take, daemon=True).start()
        return f"redis://127.0.0.1:{listening.getsockname()[1]}"

    yield serve
    listening.close()


Serve = Callable[[Callable[[socket.socket], None]], str]


def stay_silent(connection: socket.socket) -> None:
    connection.recv(1)


def test_a_host_that_is_silent_is_told(listener: Serve) -> None:
    url = listener(stay_silent)

    assert trouble(url).endswith("no answer within 1.5 s")


def test_a_host_that_answers_byte_by_byte_is_told_and_let_go(listener: Serve) -> None:
    gone = threading.Event()

    def drip(connection: socket.socket) -> None:
        try:
            while True:
                connection.sendall(b"+")
                gone.wait(0.1)
        except OSError:
            gone.set()

    assert trouble(listener(drip)).endswith("no answer within 2 s")
    assert gone.wait(30)


def test_a_host_that_is_no_redis_is_told(listener: Serve) -> None:
    def http(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        connection.close()

    trouble(listener(http))


def test_a_server_that_is_loading_is_told(tmp_path: Path) -> None:
    with redis_server(tmp_path, "--dir", str(tmp_path)) as full:
        full.eval("for i = 1, 20000 do redis.call('set', 'key' .. i, i) end", 0)
        full.save()
    slowly = ("--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024")

    with redis_server(tmp_path, "--dir", str(tmp_path), *slowly) as loading:
        assert trouble(url_of(loading)).endswith("it is still loading its data")


# The URL.


@pytest.mark.parametrize(
    "url",
    [
        "redis.internal:6379",
        "http://:secret@redis.internal",
        "redis://user:sec/ret@redis.internal:6379",
        "redis://:4821/secret@redis.internal:6379/0",
        "redis://:4821?secret@redis.internal:6379/0",
        "redis://:4821?secret=1@redis.internal:6379/0",
        "redis://secret/1@redis.internal",
        "redis://secret?1@redis.internal",
        "redis://secret#1@redis.internal",
        "rediss://:4821#secret@redis.internal",
        "redis://:4821#secret",
        "unix://user:4821/secret@/run/redis.sock",
        "redis://redis.internal/secret",
        "redis://:secret@redis.internal:port",
        "redis://:secret@[redis.internal",
        "redis://:secret@redis.internal?socket_timeout=long",
        "redis://:secret@redis.internal?no_such_option=1",
        "rediss://:secret@redis.internal?ssl_cert_reqs=perhaps",
    ],
)
def test_a_malformed_url_is_told_by_its_variable_and_never_quoted(url: str) -> None:
    told = trouble(url)

    assert told.startswith("MESSAGE_CLEANUP_REDIS_URL can't be understood")
    assert "percent-encode" in told
    for part in ("sec", "4821", "internal"):
        assert part not in told


def test_options_of_the_url_lift_no_limit(listener: Serve) -> None:
    url = listener(stay_silent)

    assert trouble(f"{url}?socket_timeout=60&retry_on_timeout=yes&protocol=3&decode_responses=1").endswith("1.5 s")


def test_an_encoding_in_the_url_changes_nothing(redis_db: redis.Redis) -> None:
    succeed(redis_db)

    assert heard(f"{url_of(redis_db)}?encoding=utf-16").state == "succeeded"


def test_without_the_package_it_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(redis_client, "find_spec", lambda name: None if name == "redis" else find(name))

    assert "pip install 'cleanup-pipeline[bullmq]'" in trouble("redis://redis.internal")


# Who may read.


def test_the_read_only_rights_of_the_readme_suffice(redis_db: redis.Redis) -> None:
    succeed(redis_db)
    with user(redis_db, "reader", f"on >pa:ss/w@rd {READ_ONLY} %R~bull:after-hours-message-cleanup:*") as url:
        assert heard(f"{url}pa%3Ass%2Fw%40rd").state == "succeeded"


def test_a_login_that_is_refused_is_told_without_the_password(redis_db: redis.Redis) -> None:
    with user(redis_db, "reader", f"on >right {READ_ONLY} %R~bull:after-hours-message-cleanup:*") as url:
        told = trouble(f"{url}wrongsecret")

    assert "it refuses the login" in told
    assert not told.endswith(".")  # whoever tells it ends the sentence
    assert "wrongsecret" not in told


def test_a_key_that_may_not_be_read_is_told(redis_db: redis.Redis) -> None:
    succeed(redis_db)
    with user(redis_db, "reader", f"on >right {READ_ONLY} %R~bull:other:*") as url:
        told = trouble(f"{url}right")

    assert "its user may not read the queue" in told
    assert "pipeline" not in told


@pytest.mark.parametrize("command", ["multi", "exec", "xrevrange", "hmget"])
def test_a_command_that_may_not_be_used_is_told_with_what_to_grant(redis_db: redis.Redis, command: str) -> None:
    succeed(redis_db)
    rules = f"on >right {READ_ONLY} -{command} %R~bull:after-hours-message-cleanup:*"
    with user(redis_db, "reader", rules) as url:
        told = trouble(f"{url}right")

    assert told.endswith(f": its user may not use {command.upper()}; grant it: ACL SETUSER reader +{command}")


class user:  # noqa: N801 -- reads as a verb
    """A user of Redis for as long as the block lasts; gives the URL up to the password."""

    def __init__(self, connection: redis.Redis, name: str, rules: str) -> None:
        self.connection, self.name, self.rules = connection, name, rules.split()

    def __enter__(self) -> str:
        self.connection.execute_command("ACL", "SETUSER", self.name, "reset", *self.rules)
        return f"{url_of(self.connection).replace('unix://', f'unix://{self.name}@')}?password="

    def __exit__(self, *_: object) -> None:
        self.connection.execute_command("ACL", "DELUSER", self.name)


# TLS.


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1, signed by itself; its key lies beside it."""
    folder = tmp_path_factory.mktemp("tls")
    request = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=redis -addext subjectAltName=IP:127.0.0.1"
    subprocess.run(
        [*request.split(), "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        check=True,
        capture_output=True,
    )
    return folder / "cert.pem"


def test_tls_is_spoken_and_a_certificate_of_an_unknown_authority_refused(certificate: Path, tmp_path: Path) -> None:
    port = free_port()
    tls = ("--tls-port", str(port), "--tls-auth-clients", "no", "--tls-cert-file", str(certificate))
    with redis_server(tmp_path, *tls, "--tls-key-file", str(certificate.with_name("key.pem"))) as server:
        succeed(server)

        assert heard(f"rediss://127.0.0.1:{port}?ssl_ca_certs={certificate}").state == "succeeded"
        assert f"127.0.0.1:{port}: its certificate is refused, self" in trouble(f"rediss://127.0.0.1:{port}")
        assert "a file that the URL names" in trouble(f"rediss://127.0.0.1:{port}?ssl_ca_certs=/no/such.pem")


# A cluster.


def test_in_a_cluster_the_prefix_has_braces_and_the_right_node_is_asked(tmp_path: Path) -> None:
    with node_of_cluster(tmp_path / "a") as (other, at, bus), node_of_cluster(tmp_path / "b") as (owner, owner_at, _):
        owner.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        owner.execute_command("CLUSTER", "MEET", "127.0.0.1", at, bus)
        until(lambda: met(other) and met(owner), "the nodes know of each other")
        with bullmq("bullmq-6", {"host": "127.0.0.1", "port": owner_at}, "{bull}") as bull:
            bull.do("await (await schedule()).promote(); await work(async () => {}, 'completed')")
        now = datetime.now(UTC)

        assert heard(f"redis://127.0.0.1:{owner_at}", now=now).state == "succeeded"
        assert heard(f"redis://127.0.0.1:{at}", now=now).state == "succeeded"
        assert heard(f"redis://127.0.0.1:{at}", "{bull}", now=now).state == "succeeded"
        assert "must be in braces" in trouble(f"redis://127.0.0.1:{owner_at}", "queues")


def test_a_prefix_without_braces_is_told_also_where_two_nodes_share_the_queue(tmp_path: Path) -> None:
    with node_of_cluster(tmp_path / "a") as (one, _, _), node_of_cluster(tmp_path / "b") as (other, at, bus):
        one.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 8191)
        other.execute_command("CLUSTER", "ADDSLOTSRANGE", 8192, 16383)
        one.execute_command("CLUSTER", "MEET", "127.0.0.1", at, bus)
        until(lambda: met(one) and met(other), "the nodes know of each other")

        assert "must be in braces" in trouble(f"redis://127.0.0.1:{at}", "queues")


@contextmanager
def node_of_cluster(folder: Path) -> Iterator[tuple[redis.Redis, int, int]]:
    """A node without slots, its port, and the port of its bus."""
    folder.mkdir()
    port, bus = free_port(), free_port()
    cluster = ("--cluster-enabled", "yes", "--cluster-port", str(bus), "--cluster-require-full-coverage", "no")
    with redis_server(folder, "--port", str(port), "--bind", "127.0.0.1", *cluster) as node:
        yield node, port, bus


def met(node: redis.Redis) -> bool:
    """Whether the node knows who has all slots."""
    told = bytes(node.execute_command("CLUSTER", "INFO", NEVER_DECODE=True))
    return b"cluster_state:ok" in told and b"cluster_slots_ok:16384" in told
