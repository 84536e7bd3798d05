"""What a command ends with: exit codes, and the sentence to go with those that are not 0."""

from enum import IntEnum

import click

from cleanup_pipeline.sweep.result import Status


class ExitCode(IntEnum):
    """What the shell is told."""

    DONE = 0
    FAILED = 1
    CANNOT_BEGIN = 2
    REFUSED = 3
    SKIPPED = 4
    INTERRUPTED = 130


CODES = {
    Status.SUCCESS: ExitCode.DONE,
    Status.FAILED: ExitCode.FAILED,
    Status.REFUSED: ExitCode.REFUSED,
    Status.SKIPPED: ExitCode.SKIPPED,
    Status.INTERRUPTED: ExitCode.INTERRUPTED,
}


class CannotBeginError(click.ClickException):
    """Usage, configuration, or something that can't be reached; nothing was touched."""

    exit_code = ExitCode.CANNOT_BEGIN


def bug(error: BaseException) -> str:
    """What may be told of an error that nobody expected: its kind and place. Its text may hold data, or a URL."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = "" if trace is None else f" at {trace.tb_frame.f_globals.get('__name__', '?')}:{trace.tb_lineno}"
    return f"Something unexpected happened ({type(error).__name__}{place}). Please report it."
