"""The pipeline as it is deployed: Dagster's webserver and daemon, each a process, on PostgreSQL storage."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import yaml

CHECKOUT = Path(__file__).parents[2]
REAL = "cleanup_pipeline.definitions"
LOCATION = "cleanup_pipeline"
_PATIENCE_S = 90.0
_POLL_S = 0.25

T = TypeVar("T")


def until(what: str, look: Callable[[], T | None], within_s: float = _PATIENCE_S) -> T:
    """Look until there is something to see, and return it."""
    deadline = time.monotonic() + within_s
    while not (seen := look()):
        assert time.monotonic() < deadline, f"not in {within_s:.0f} s: {what}"
        time.sleep(_POLL_S)
    return seen


class Webserver:
    """The webserver, by its HTTP interface alone."""

    def __init__(self, address: str) -> None:
        self.address = address

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        request = urllib.request.Request(  # noqa: S310 -- our own server
            f"{self.address}{path}", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 -- the same
            return json.load(answer)

    def ask(self, query: str, **variables: Any) -> Any:
        """GraphQL."""
        answer = self.post("/graphql", {"query": query, "variables": variables})
        assert "errors" not in answer, answer["errors"]
        return answer["data"]

    def is_up(self) -> bool:
        try:
            return bool(self.ask("{ repositoriesOrError { ... on RepositoryConnection { nodes { name } } } }"))
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False


def make_home(folder: Path, storage_url: str, module: str = REAL) -> Path:
    """A DAGSTER_HOME with the checkout's own dagster.yaml, on that storage; a lost worker is looked for sooner."""
    folder.mkdir(parents=True, exist_ok=True)
    config = yaml.safe_load((CHECKOUT / "dagster.yaml").read_text())
    config["storage"] = {"postgres": {"postgres_url": storage_url}}
    config["run_monitoring"]["poll_interval_seconds"] = 1
    (folder / "dagster.yaml").write_text(yaml.safe_dump(config))
    location = {"python_module": {"module_name": module, "location_name": LOCATION}}
    (folder / "workspace.yaml").write_text(yaml.safe_dump({"load_from": [location]}))
    return folder


def environment(home: Path, database_url: str) -> dict[str, str]:
    """The environment of a deployment, and nothing of this process's own that concerns it."""
    ours = {
        name: value for name, value in os.environ.items() if not name.startswith(("CLEANUP_", "MESSAGE_", "DAGSTER"))
    }
    return ours | {"CLEANUP_DATABASE_URL": database_url, "DAGSTER_HOME": str(home), "PYTHONPATH": str(CHECKOUT)}


@contextmanager
def webserver(home: Path, database_url: str) -> Iterator[Webserver]:
    """The webserver alone, waited for."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = ["dagster_webserver", "-h", "127.0.0.1", "-p", str(port)]
    with _process(home, database_url, *arguments):
        server = Webserver(f"http://127.0.0.1:{port}")
        until("the webserver answers", server.is_up)
        yield server


@contextmanager
def deployment(home: Path, database_url: str) -> Iterator[Webserver]:
    """Webserver and daemon, both waited for."""
    with ExitStack() as stack:
        server = stack.enter_context(webserver(home, database_url))
        stack.enter_context(_process(home, database_url, "dagster._daemon", "run"))
        until("every daemon is healthy", lambda: _daemons_are_healthy(server))
        yield server


def _daemons_are_healthy(server: Webserver) -> bool:
    query = "{ instance { daemonHealth { allDaemonStatuses { daemonType required healthy } } } }"
    statuses = server.ask(query)["instance"]["daemonHealth"]["allDaemonStatuses"]
    required = [status for status in statuses if status["required"]]
    return bool(required) and all(status["healthy"] for status in required)


@contextmanager
def _process(home: Path, database_url: str, module: str, *arguments: str) -> Iterator[None]:
    """A process of Dagster's, with all that it started, for as long as it is needed; its output lies in the home."""
    with (home / f"{module}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments, "-w", str(home / "workspace.yaml")],
            cwd=home,
            env=environment(home, database_url),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its code server and run workers are of its session
        process.wait()
