"""Real Redis servers and a real BullMQ for tests; skipped where they can't be had, but never in CI."""

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import redis
from filelock import FileLock
from redis.backoff import NoBackoff
from redis.retry import Retry

from cleanup_pipeline_tests.servers import skip_or_fail

HERE = Path(__file__).parent / "gate"
KEYS = "bull:after-hours-message-cleanup:"
_PATIENCE_S = 30.0


def until(true: Callable[[], object], what: str) -> None:
    """Wait until it is true."""
    deadline = time.monotonic() + _PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, f"not within {_PATIENCE_S:g} s: {what}"
        time.sleep(0.01)


@contextmanager
def redis_server(folder: Path, *arguments: str, url: str = "", **client: Any) -> Iterator[redis.Redis]:
    """Start a Redis server that keeps nothing, on a unix socket in `folder` and what the arguments add."""
    program = shutil.which("redis-server")
    if program is None:
        skip_or_fail("redis-server is missing.")
    # A socket's path is short.
    with tempfile.TemporaryDirectory(prefix="redis-") as short, (folder / "redis.log").open("ab") as log:
        path = f"{short}/s"
        port = () if "--port" in arguments else ("--port", "0")
        process = subprocess.Popen(
            [program, *port, "--unixsocket", path, "--save", "", "--dir", short, *arguments],
            stdout=log,
            stderr=log,
        )
        try:
            once = Retry(NoBackoff(), 0)
            connection = redis.Redis.from_url(url or f"unix://{path}", retry=once, **client)
            until(lambda: process.poll() is not None or _answers(connection), f"Redis answers, see {log.name}")
            if process.poll() is not None:
                raise OSError(f"Redis ended, see {log.name}")
            yield connection
            connection.close()
        finally:
            # A test may have stopped it.
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def _answers(connection: redis.Redis) -> bool:
    try:
        return bool(connection.ping())
    except (redis.AuthenticationError, redis.BusyLoadingError):
        return True
    except redis.RedisError:
        return False


def url_of(connection: redis.Redis) -> str:
    """The URL of a server on a unix socket."""
    return f"unix://{connection.connection_pool.connection_kwargs['path']}"


def leave(connection: redis.Redis, place: str, job: str, score: object, fields: Mapping[str, str | bytes]) -> None:
    """Leave a job as BullMQ would: among those in `place`, and its hash."""
    connection.zadd(f"{KEYS}{place}", {job: score})  # type: ignore[dict-item]  # Redis reads "inf" too
    if fields:
        connection.hset(f"{KEYS}{job}", mapping=fields)  # type: ignore[arg-type]  # of bytes or text


@pytest.fixture(scope="session")
def _one_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Redis]:
    with redis_server(tmp_path_factory.mktemp("redis")) as connection:
        yield connection


@pytest.fixture
def redis_db(_one_redis: redis.Redis) -> redis.Redis:
    """An empty Redis."""
    _one_redis.flushall()
    return _one_redis


@dataclass
class BullMQ:
    """A Node process with one version of BullMQ, on the Redis that `connection` (of ioredis) names."""

    version: str
    process: "subprocess.Popen[str]"
    connection: Mapping[str, object]
    prefix: str = "bull"

    def do(self, code: str) -> Any:
        """Run JavaScript (see bullmq.cjs for what it may use) and return its result."""
        asked = {"code": code, "connection": self.connection, "prefix": self.prefix}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        late = threading.Timer(_PATIENCE_S, self.process.kill)
        late.start()
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        answered = self.process.stdout.readline()
        late.cancel()
        assert answered, f"no answer within {_PATIENCE_S:g} s to: {code}"
        answer = json.loads(answered)
        assert "error" not in answer, answer["error"]
        return answer["result"]


def node_modules() -> Path:
    """Install the packages of package.json, once for all workers and runs."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        skip_or_fail("Node.js with npm is missing.")
    wanted = (HERE / "package.json").read_bytes()
    folder = Path(tempfile.gettempdir()) / f"cleanup-pipeline-{os.getuid()}-{sha256(wanted).hexdigest()[:16]}"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            with tempfile.TemporaryDirectory(prefix="npm-") as place:
                made = Path(place) / "made"
                made.mkdir()
                (made / "package.json").write_bytes(wanted)
                command = ["npm", "install", "--ignore-scripts", "--no-package-lock", "--no-audit", "--no-fund"]
                done = subprocess.run(command, cwd=made, timeout=300, capture_output=True, text=True, check=False)
                if done.returncode:
                    skip_or_fail(f"BullMQ is missing (npm install: {done.stderr[-500:]}).")
                made.rename(folder)
    return folder / "node_modules"


@contextmanager
def bullmq(version: str, connection: Mapping[str, object], prefix: str = "bull") -> Iterator[BullMQ]:
    """Start a Node process with `version` (`bullmq-5`, …) of BullMQ."""
    process = subprocess.Popen(
        ["node", str(HERE / "bullmq.cjs"), version],
        env={**os.environ, "NODE_PATH": str(node_modules())},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield BullMQ(version, process, connection, prefix)
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def _processes(_one_redis: redis.Redis) -> Iterator[Callable[[str], BullMQ]]:
    """One Node process a version, started when it is first asked for."""
    path = _one_redis.connection_pool.connection_kwargs["path"]
    started: dict[str, BullMQ] = {}
    with ExitStack() as stack:

        def of(version: str) -> BullMQ:
            if version not in started:
                started[version] = stack.enter_context(bullmq(version, {"path": path}))
            return started[version]

        yield of


@pytest.fixture(params=["bullmq-5", "bullmq-6"])
def bull(
    request: pytest.FixtureRequest, redis_db: redis.Redis, _processes: Callable[[str], BullMQ]
) -> Iterator[BullMQ]:
    """BullMQ in production's version and in the newest, on the Redis of `redis_db`."""
    process = _processes(request.param)
    yield process
    process.do("await reset()")
    redis_db.flushall()
