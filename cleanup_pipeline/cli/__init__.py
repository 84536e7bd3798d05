"""The operator's commands: `cleanup-pipeline`."""

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command, and end the process with its exit code.

    Signals count from here on: what takes its time, parsing included, is imported behind them.
    """
    from cleanup_pipeline.cli.signals import interrupts

    interrupts.take()
    try:
        from cleanup_pipeline.cli.commands import command_line
    except ImportError as error:
        sys.exit(_say(what_is_missing(error)))

    code = command_line(arguments)
    # Whatever comes now is too late to change what was done and told.
    interrupts.ignore()
    sys.exit(code)


def what_is_missing(error: ImportError) -> str:
    """What a person is told of a package that is missing or broken."""
    return (
        f"A package can't be imported ({error.name or 'its name is unknown'}): install cleanup-pipeline again, "
        "with the versions of constraints.txt."
    )


def _say(sentence: str) -> int:
    """Say why nothing could begin, where not even the package is there that says everything else."""
    sys.stderr.write(f"Error: {sentence}\n")
    return 2
