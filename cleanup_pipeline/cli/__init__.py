"""The operator's commands: `cleanup-pipeline`."""

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command, and end the process with its exit code.

    Signals count from here on: what takes its time, parsing included, is imported behind them.
    """
    from cleanup_pipeline.cli.signals import interrupts

    interrupts.take()
    from cleanup_pipeline.cli.commands import command_line

    code = command_line(arguments)
    # Whatever comes now is too late to change what was done and told.
    interrupts.ignore()
    sys.exit(code)
