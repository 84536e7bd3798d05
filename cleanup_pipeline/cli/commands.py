"""The commands and their options. What they do is imported when they do it: `--help` must not wait for Dagster."""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import click

from cleanup_pipeline.cli import what_is_missing
from cleanup_pipeline.cli.errors import ExitCode, bug
from cleanup_pipeline.cli.options import (
    Request,
    at_option,
    how_options,
    json_option,
    request_for,
    rule_option,
    what_options,
)
from cleanup_pipeline.cli.output import Streams, open_streams
from cleanup_pipeline.cli.report import Answer, Unfinished, tell, unfinished_plan, unfinished_run
from cleanup_pipeline.cli.signals import interrupts, nothing
from cleanup_pipeline.cli.watch import Watch

_LAZY = {"demo": "cleanup_pipeline.cli.demo", "dev": "cleanup_pipeline.cli.dev"}
"""Commands in modules of their own, under the same name. They take signals by themselves."""


class _Commands(click.Group):
    """The group of commands; those of `_LAZY` are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *_LAZY])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _LAZY:
            return super().get_command(ctx, cmd_name)
        if interrupts.asked:
            interrupts.leave()
        command: click.Command = getattr(import_module(_LAZY[cmd_name]), cmd_name)
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def cli() -> None:
    """Keep the After Hours part of a PostgreSQL database clean.

    \b
    In an incident, in this order:
      cleanup-pipeline status
      cleanup-pipeline plan
      cleanup-pipeline run --max-rows 10000 --reason "disk is filling up"

    Variables: CLEANUP_DATABASE_URL, the database to clean, a libpq URL; DAGSTER_HOME, the folder of dagster.yaml, so
    that runs are recorded; DAGSTER_POSTGRES_URL, the database that they are recorded in; CLEANUP_UI_URL, the UI's
    address, for links to runs.

    Exit codes: 0 all done; 1 failed; 2 could not begin, nothing was touched; 3 refused by a safety check; 4 skipped,
    another sweep is on; 130 interrupted.
    """  # noqa: D301 -- click's mark of lines that are to stay as they are


@cli.command()
@what_options
@how_options
def run(*, dry_run: bool, **given: Any) -> int:
    """Clean now, through Dagster, with progress.

    Ctrl-C stops within a moment and tells what was done; what was committed stays. Again, it ends at once.
    """
    request = request_for(**given)
    if dry_run:
        return _answer("plan", request, lambda: unfinished_plan(request.rules))
    return _answer("run", request, lambda: unfinished_run(request.run_id, request.rules))


@cli.command()
@what_options
def plan(**given: Any) -> int:
    """Count what a run would clean now. Writes nothing."""
    request = request_for(**given)
    return _answer("plan", request, lambda: unfinished_plan(request.rules))


@cli.command()
@json_option
def status(**given: Any) -> int:
    """Show gate, last runs, next tick and backlog."""
    return _answer("status", request_for(**given), Unfinished)


@cli.command()
@rule_option
@json_option
def doctor(**given: Any) -> int:
    """Tell whether each rule may run, and what to do."""
    return _answer("doctor", request_for(**given), Unfinished)


@cli.command()
@click.option("--role", required=True, metavar="R", help="The role that the pipeline logs in as.")
@json_option
def grants(**given: Any) -> int:
    """Print the exact grants that the rules need.

    The tables' owner runs them.
    """
    return _answer("grants", request_for(**given), Unfinished)


@cli.command()
@at_option
@json_option
def report_message_cleanup(**given: Any) -> int:
    """Record that message cleanup has succeeded.

    By hand, for the UTC day of T.
    """
    return _answer("report_message_cleanup", request_for(**given), Unfinished)


@cli.command()
@click.option("--reason", required=True, metavar="TEXT", help="Why; `status`, the UI and alerts show it.")
@json_option
def pause(**given: Any) -> int:
    """Switch schedule and sensor off.

    Nothing starts by itself then; `resume` switches them on again.
    """
    request = request_for(**given)
    if request.reason is None:
        raise click.UsageError("--reason is empty: say why.")
    return _answer("pause", request, Unfinished)


@cli.command()
@json_option
def resume(**given: Any) -> int:
    """Switch schedule and sensor on again."""
    return _answer("resume", request_for(**given), Unfinished)


def _answer(name: str, request: Request, if_interrupted: Callable[[], Answer]) -> int:
    """Do what `work` in the module of that name does, and tell what came of it; returns the exit code."""
    with open_streams() as streams:
        watch = Watch(if_interrupted)
        interrupts.last_words = lambda: _last_words(watch, streams, request)
        try:
            answer: Answer = watch.over(lambda: _work(name, request, streams, watch))
        finally:
            interrupts.last_words = nothing
        try:
            return tell(answer, streams, as_json=request.as_json)
        except ImportError as error:  # too late for code 2: something may have been touched
            streams.err.line(f"The report can't be shown. {what_is_missing(error)}")
            return answer.code or ExitCode.FAILED


def _work(name: str, request: Request, streams: Streams, watch: Watch) -> Answer:
    if not request.as_json:
        import_module("cleanup_pipeline.cli.tables")  # what is missing is to be known before anything is touched
    answer: Answer = import_module(f"cleanup_pipeline.cli.{name}").work(request, streams, watch)
    return answer


def _last_words(watch: Watch, streams: Streams, request: Request) -> None:
    watch.display.close()
    tell(watch.so_far(), streams, as_json=request.as_json, briefly=True)


def command_line(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code, and has told why where that is not 0. Raises `SystemExit` at most."""
    try:
        code = cli.main(arguments, prog_name="cleanup-pipeline", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        _tell(error.format_message())
        return ExitCode.CANNOT_BEGIN
    except click.UsageError as error:
        hint = f"\nTry '{error.ctx.command_path} --help'." if error.ctx else ""
        _tell(f"Error: {error.format_message()}{hint}")
        return ExitCode.CANNOT_BEGIN
    except click.ClickException as error:
        _tell(f"Error: {error.format_message()}")
        return error.exit_code
    except ImportError as error:
        _tell(f"Error: {what_is_missing(error)}")
        return ExitCode.CANNOT_BEGIN
    except Exception as error:
        _tell(f"Error: {bug(error)}")
        return ExitCode.FAILED
    return code or ExitCode.DONE


def _tell(text: str) -> None:
    try:
        click.echo(text, err=True)
    except OSError:
        return  # nobody is there to be told
