"""docs/operations.md: what it says to type is typed, as it stands, as far as a test can; its files fit the checkout."""

import configparser
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
import yaml
from dagster import DagsterInstance

from cleanup_pipeline.cli.commands import cli as commands
from cleanup_pipeline.demo.data import plant
from cleanup_pipeline.demo.schema import create_tables
from cleanup_pipeline.demo.server import EmbeddedServer, embedded_server
from cleanup_pipeline_tests.cli.conftest import Ended, environment
from cleanup_pipeline_tests.cli.test_runbook import parse
from cleanup_pipeline_tests.gate.storage import add_run

Cli = Callable[..., Ended]

CHECKOUT = Path(__file__).parents[2]
TEXT = (CHECKOUT / "docs" / "operations.md").read_text()
BIN = Path(sys.executable).parent


def blocks(kind: str, heading: str = "") -> list[str]:
    """What stands in blocks of that kind, in the section of that heading or everywhere, without its indentation."""
    part = TEXT.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0] if heading else TEXT
    found = re.findall(rf"^( *)```{kind}\n(.*?)^\1```", part, re.MULTILINE | re.DOTALL)
    return ["\n".join(line.removeprefix(indent) for line in block.splitlines()) for indent, block in found]


def typed(heading: str = "") -> list[str]:
    return [line for block in blocks("sh", heading) for line in block.splitlines()]


def ours(heading: str = "") -> list[list[str]]:
    return [shlex.split(line)[1:] for line in typed(heading) if line.startswith("cleanup-pipeline ")]


@dataclass(frozen=True)
class Installed:
    """A server on which somebody did what the page says; `owner` owns the cleaned database's tables."""

    owner: str
    cleanup: str
    home: Path


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with embedded_server(durable=False) as server:
        yield server


@pytest.fixture(scope="module")
def installed(server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    owner = server.create_database("app")
    with psycopg.connect(server.url(), autocommit=True) as superuser:
        for (statements,) in [blocks("sql")]:
            for statement in statements.split(";"):
                superuser.execute(statement.encode())
    with psycopg.connect(owner, autocommit=True) as connection:
        create_tables(connection)
        plant(connection, 2000)
    home = tmp_path_factory.mktemp("home")
    (home / "dagster.yaml").write_text((CHECKOUT / "dagster.yaml").read_text())
    return Installed(owner, as_role(owner, "cleanup", "change-me-1"), home)


def as_role(url: str, role: str, password: str) -> str:
    """The URL of the same database for another role."""
    return psycopg.conninfo.make_conninfo(url, user=role, password=password)


def url(conninfo: str) -> str:
    return "postgresql://?" + "&".join(
        f"{name}={value}" for name, value in psycopg.conninfo.conninfo_to_dict(conninfo).items() if value is not None
    )


def test_roles_grants_and_taking_over_go_as_written(cli: Cli, installed: Installed, server: EmbeddedServer) -> None:
    storage = url(as_role(server.url("dagster"), "dagster", "change-me-2"))
    variables = {
        "CLEANUP_DATABASE_URL": url(installed.cleanup),
        "DAGSTER_POSTGRES_URL": storage,
        "DAGSTER_HOME": str(installed.home),
    }
    assert cli("doctor", **variables).code == 3  # not granted yet

    [arguments] = [arguments for arguments in ours("Databases, roles and TLS") if arguments[0] == "grants"]
    granted = cli(*arguments, **variables | {"CLEANUP_DATABASE_URL": installed.owner})
    with psycopg.connect(installed.owner) as owner:
        owner.execute(granted.out.encode())

    went = [(arguments[0], cli(*arguments, **variables).code) for arguments in ours("Taking over from the old job")]
    assert went == [
        ("pause", 0),
        ("doctor", 0),
        ("plan", 0),
        ("run", 0),
        ("run", 0),
        ("status", 0),
        ("resume", 0),
        ("status", 0),
    ]
    with psycopg.connect(installed.owner) as owner:
        assert owner.execute("select count(*) from after_hours_declines").fetchone() == (1000,)
    for heading in ("Upgrade", "Backup"):
        for arguments in ours(heading):
            assert cli(*arguments, **variables).code == 0
    migrated = subprocess.run(
        [BIN / "dagster", "instance", "migrate"],
        env=environment(variables),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (migrated.returncode, "dagster instance migrate" in typed("Upgrade")) == (0, True)


@pytest.mark.parametrize("command", sorted({line for line in typed() if line.startswith("cleanup-pipeline ")}))
def test_each_command_of_ours_exists(command: str) -> None:
    parse(command)


def test_what_is_older_than_a_year_is_pruned_and_nothing_else(instance: DagsterInstance, dagster_home: Path) -> None:
    old, new, others = add_run(instance), add_run(instance), add_run(instance, "message_cleanup")
    storage = yaml.safe_load((dagster_home / "dagster.yaml").read_text())["storage"]["postgres"]["postgres_url"]
    with psycopg.connect(storage) as connection:
        connection.execute(
            "update runs set create_timestamp = now() - interval '366 days' where run_id = any(%s)", [[old, others]]
        )
    files = dagster_home / "storage"
    files.mkdir(exist_ok=True)
    for name, days in (("old", 366), ("new", 1)):
        (files / name).touch()
        subprocess.run(["touch", "-d", f"{days} days ago", str(files / name)], check=True)
    variables = environment({"DAGSTER_HOME": str(dagster_home)})

    [prune] = blocks("python")
    subprocess.run([sys.executable, "-c", prune], env=variables, check=True, timeout=120)
    [find] = [line for line in typed() if line.startswith("find ")]
    subprocess.run(["sh", "-c", find], env=variables, check=True, timeout=60)

    assert {run.run_id for run in instance.get_runs()} == {new, others}
    assert ((files / "old").exists(), (files / "new").exists()) == (False, True)


def test_the_units_start_programs_that_exist_with_options_that_they_have() -> None:
    units = blocks("ini", "With systemd")
    assert len(units) == 2
    for text in units:
        unit = configparser.ConfigParser(strict=False, interpolation=None)
        unit.optionxform = str  # type: ignore[assignment, method-assign]  # its documented way
        unit.read_string(text)
        assert unit["Service"]["WorkingDirectory"] == "/opt/cleanup"
        knows(shlex.split(unit["Service"]["ExecStart"].replace("/opt/cleanup/.venv/bin", str(BIN))))


def knows(command: list[str]) -> None:
    """See that a program of Dagster's has every option of a command."""
    program, *arguments = command
    words = [word for word in arguments if re.fullmatch(r"[a-z]+", word)]
    told = subprocess.run([program, *words[:2], "--help"], capture_output=True, text=True, timeout=120)
    assert told.returncode == 0
    for option in (word for word in arguments if word.startswith("-")):
        assert re.search(rf"{option}\b", told.stdout), (command, option)


def test_the_dockerfile_copies_what_there_is_and_starts_what_exists() -> None:
    text = (CHECKOUT / "docs" / "Dockerfile").read_text()
    for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE):
        *sources, _ = line.split()
        assert all((CHECKOUT / source).exists() for source in sources), line
    [command] = re.findall(r"^CMD (.*)$", text, re.MULTILINE)
    knows([str(BIN / yaml.safe_load(command)[0]), *yaml.safe_load(command)[1:]])


def test_the_charts_values_say_what_dagster_yaml_says() -> None:
    [text] = blocks("yaml", "On Kubernetes")
    values = yaml.safe_load(text)
    instance = yaml.safe_load((CHECKOUT / "dagster.yaml").read_text())
    by_the_chart = {"storage", "telemetry", "nux"}
    assert values["additionalInstanceConfig"] == {
        name: value for name, value in instance.items() if name not in by_the_chart
    }
    assert values["telemetry"] == instance["telemetry"]
    [deployment] = values["dagster-user-deployments"]["deployments"]
    knows([str(BIN / "dagster"), "api", "grpc", *deployment["dagsterApiGrpcArgs"]])


def test_completion_is_as_the_readme_says(tmp_path: Path) -> None:
    [line] = re.findall(r'^eval "\$\(_CLEANUP_PIPELINE_COMPLETE=\w+ cleanup-pipeline\)"$', README, re.MULTILINE)
    command = tmp_path / "cleanup-pipeline"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m cleanup_pipeline.cli "$@"\n')
    command.chmod(0o755)
    completed = """
        COMP_WORDS=(cleanup-pipeline run --ru) COMP_CWORD=2
        _cleanup_pipeline_completion cleanup-pipeline; echo "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        ["bash", "-c", f"{line}\n{completed}"],
        env=environment({"PATH": f"{tmp_path}:{os.environ['PATH']}"}),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout.strip(), done.stderr) == ("--rule", "")


README = (CHECKOUT / "README.md").read_text()


def test_the_readme_names_every_command() -> None:
    context = commands.make_context("cleanup-pipeline", ["--help"], resilient_parsing=True)
    for name in commands.list_commands(context):
        assert f"cleanup-pipeline {name}" in README or f"`{name}" in README, name
