"""`demo` and `dev`, as a person runs them: on a server of their own, which is gone when they end."""

import json
import re
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cleanup_pipeline_tests.cli.conftest import ended, start

QUESTION = """
{
  repositoriesOrError { ... on RepositoryConnection { nodes {
    jobs { name }
    schedules { name scheduleState { status } }
    sensors { name sensorState { status } }
    assetNodes {
      assetKey { path }
      dependencyKeys { path }
      assetMaterializations(limit: 1) { metadataEntries { label ... on IntMetadataEntry { intValue } } }
    }
  } } }
}
"""


@pytest.fixture
def own_folder(tmp_path: Path) -> dict[str, str | None]:
    """Where the commands put what they make, to see that nothing of it stays."""
    folder = tmp_path / "t"
    folder.mkdir()
    return {"TMPDIR": str(folder)}


def until(holds: Callable[[], Any], within_s: float) -> Any:
    deadline = time.monotonic() + within_s
    while not (found := holds()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)
    return found


@pytest.mark.parametrize("rows", ["1", "3000"])
def test_the_demo_ends_with_the_planted_counts_and_leaves_nothing_behind(
    own_folder: dict[str, str | None], tmp_path: Path, rows: str
) -> None:
    shown = ended(start(["demo", "--rows", rows], own_folder), 120)
    assert (shown.code, shown.err) == (0, "")
    assert "Every count is the one that was planted." in shown.out
    if rows == "3000":
        assert re.search(r"old_declines +after_hours_declines +3,000 +1,500 +1,500 +1,500 +deleted", shown.out)
        assert re.search(r"after_hours_matches +300 +0 +0 +300 +never touched", shown.out)
    assert list((tmp_path / "t").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_demo_stopped_half_way_takes_its_server_with_it(
    own_folder: dict[str, str | None], tmp_path: Path, number: signal.Signals
) -> None:
    process = start(["demo", "--rows", "400000"], own_folder)
    until(lambda: list((tmp_path / "t").glob("*/postgres/postmaster.pid")), 60)
    process.send_signal(number)
    shown = ended(process)
    assert shown.code == 130
    assert "interrupted" in shown.err
    assert list((tmp_path / "t").iterdir()) == []


@pytest.mark.parametrize("rows", ["0", "-1", "many"])
def test_the_demo_wants_a_whole_number_of_rows(rows: str) -> None:
    assert ended(start(["demo", "--rows", rows], {})).code == 2


def test_dev_serves_what_it_has_cleaned_once_and_runs_schedule_and_sensor(
    own_folder: dict[str, str | None],
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = start(["dev", "--port", str(port)], own_folder)
    try:
        (seen,) = until(lambda: ask(port), 120)
        assert {job["name"] for job in seen["jobs"]} == {"session_cleanup", "__ASSET_JOB"}
        assert seen["schedules"] == [{"name": "session_cleanup_daily", "scheduleState": {"status": "RUNNING"}}]
        assert seen["sensors"] == [
            {"name": name, "sensorState": {"status": "RUNNING"}}
            for name in ("session_cleanup_alerts", "session_cleanup_gate")
        ]
        below = [
            node["assetKey"]["path"]
            for node in seen["assetNodes"]
            if node["dependencyKeys"] == [{"path": ["chat_service", "message_cleanup"]}]
        ]
        assert sorted(below) == [
            ["after_hours", name] for name in ("declines", "device_fingerprints", "preferences", "profiles", "sessions")
        ]
        cleaned = {node["assetKey"]["path"][-1]: rows_affected(node) for node in seen["assetNodes"]}
        assert (cleaned["sessions"], cleaned["declines"], cleaned["profiles"]) == ([5000], [5000], [1000])
    finally:
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "SupersessionWarning" not in told
    assert re.findall(r"^  export (\w+)=", told, re.MULTILINE) == [
        "CLEANUP_DATABASE_URL",
        "DAGSTER_POSTGRES_URL",
        "DAGSTER_HOME",
        "CLEANUP_UI_URL",
    ]


def rows_affected(node: Any) -> list[int]:
    """What the last materialization of an asset says."""
    entries = [entry for told in node["assetMaterializations"] for entry in told["metadataEntries"]]
    return [entry["intValue"] for entry in entries if entry["label"] == "rows_affected"]


def test_dev_says_so_where_its_port_is_taken(own_folder: dict[str, str | None], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        shown = ended(start(["dev", "--port", str(port)], own_folder))
    assert shown.code == 2
    assert (
        f"The UI can't listen on 127.0.0.1:{port} (Address already in use). Choose another --host or --port."
        in shown.err
    )
    assert list((tmp_path / "t").iterdir()) == []


def ask(port: int) -> Any:
    """What the webserver says of its repositories; nothing while it does not answer."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/graphql",
        json.dumps({"query": QUESTION}).encode(),
        {"content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 -- our own server
            return json.load(answer)["data"]["repositoriesOrError"].get("nodes")
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return None
