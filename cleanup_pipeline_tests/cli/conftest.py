"""The commands: in this process where that makes no difference, as a process of their own where it does."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import Connection

import cleanup_pipeline
from cleanup_pipeline.cli.commands import command_line
from cleanup_pipeline.demo.data import plant

ROOT = Path(cleanup_pipeline.__file__).parents[1]
OURS = ("CLEANUP_", "DAGSTER_", "MESSAGE_CLEANUP_")


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def rules(self) -> Any:
        return self.json["rules"]


def environment(given: Mapping[str, str | None]) -> dict[str, str]:
    """The environment of a process: nothing of ours but what is given."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    known = {**inherited, "PYTHONPATH": str(ROOT), "COLUMNS": "80", **given}
    return {name: value for name, value in known.items() if value is not None}


def start(arguments: Sequence[str], given: Mapping[str, str | None], before: str = "") -> subprocess.Popen[str]:
    """Start a command in a process of its own; `before` is Python that runs there before its `main`."""
    script = f"{before}\nfrom cleanup_pipeline.cli import main\nmain()"
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        env=environment(given),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str], seconds: float = 60) -> Ended:
    out, err = process.communicate(timeout=seconds)
    assert "Traceback" not in err
    return Ended(process.returncode, out, err)


@pytest.fixture
def cli(database: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Run a command in this process, on `database`; keywords are variables, and None takes one away."""

    def run(*arguments: str, **variables: str | None) -> Ended:
        with monkeypatch.context() as patch:
            for name in os.environ:
                if name.startswith(OURS):
                    patch.delenv(name)
            for name, value in ({"CLEANUP_DATABASE_URL": database} | variables).items():
                if value is not None:
                    patch.setenv(name, value)
            capfd.readouterr()
            code = command_line(arguments)
            captured = capfd.readouterr()
        assert "Traceback" not in captured.err
        return Ended(code, captured.out, captured.err)

    return run


@pytest.fixture
def planted(database: str) -> Iterator[Connection]:
    """The app, connected to `database`, with 2,000 rows a table: 1,000 expired sessions, 1,000 old declines, …"""
    with psycopg.connect(database, autocommit=True) as connection:
        plant(connection, 2000)
        yield connection
