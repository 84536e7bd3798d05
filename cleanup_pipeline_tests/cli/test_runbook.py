"""docs/runbook.md: every code and alert of the code is in it, none that is not, and each command is one that exists."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from cleanup_pipeline.alerts.alert import KINDS, NEXT_STEPS
from cleanup_pipeline.cli.commands import cli
from cleanup_pipeline.cli.errors import ExitCode

RUNBOOK = (Path(__file__).parents[2] / "docs" / "runbook.md").read_text()


def sections(pattern: str) -> dict[str, str]:
    """Headings of the third level that match, with what stands below each."""
    parts = re.split(r"^(?=##)", RUNBOOK, flags=re.MULTILINE)
    found = ((re.match(rf"### ({pattern})$", part, re.MULTILINE), part) for part in parts)
    return {match[1]: part for match, part in found if match}


def commands_in(text: str) -> Iterator[str]:
    """Our commands: lines of a block, and what stands between backticks."""
    flat = " ".join(text.split())
    yield from re.findall(r"^cleanup-pipeline .*$", text, re.MULTILINE)
    yield from re.findall(r"`(cleanup-pipeline [^`]+)`", flat)


def parse(command: str) -> None:
    """Parse a command as click does; raises `click.UsageError` where it would not begin."""
    _, name, *arguments = shlex.split(command)
    context = click.Context(cli)
    if name == "--help":
        return
    found = cli.get_command(context, name)
    assert found is not None, f"there is no command {name}"
    try:
        found.make_context(name, list(arguments))
    except click.exceptions.Exit:
        assert "--help" in arguments


def test_every_alert_has_its_section_and_no_other() -> None:
    assert set(sections("[a-z_]+")) == set(KINDS)


def test_every_exit_code_has_its_section_and_no_other() -> None:
    assert set(sections(r"Exit code \d+")) == {f"Exit code {code.value}" for code in ExitCode}


@pytest.mark.parametrize("kind", KINDS)
def test_an_alerts_first_command_is_in_its_section(kind: str) -> None:
    (step,) = [step for named, step in NEXT_STEPS.items() if named == kind]
    assert step in set(commands_in(sections(kind)[kind]))


@pytest.mark.parametrize("name", [*KINDS, *(f"Exit code {code.value}" for code in ExitCode if code)])
def test_each_says_what_to_type(name: str) -> None:
    assert list(commands_in(sections("[a-z_]+|Exit code .*")[name]))


@pytest.mark.parametrize("command", sorted({*commands_in(RUNBOOK)}))
def test_each_command_can_be_typed_as_it_stands(command: str) -> None:
    parse(command)


def test_a_command_that_does_not_exist_would_be_seen() -> None:
    for wrong in ("cleanup-pipeline mend", "cleanup-pipeline run --rule everything", "cleanup-pipeline pause"):
        with pytest.raises((click.UsageError, AssertionError)):
            parse(wrong)
