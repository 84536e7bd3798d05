"""`resume`: schedule and sensor on again, together."""

from cleanup_pipeline.cli.options import Request
from cleanup_pipeline.cli.output import Streams
from cleanup_pipeline.cli.pausing import Switched, switching
from cleanup_pipeline.cli.watch import Watch
from cleanup_pipeline.gate import day
from cleanup_pipeline.gate.pause import end_pause


def work(_: Request, __: Streams, watch: Watch) -> Switched:
    """Switch on what is off. Raises `CannotBeginError`."""
    with switching(watch) as instance:
        ended = end_pause(instance, day.utc_now())
    if ended is None:
        return Switched(None, "It was not paused: schedule and sensor are on.")
    return Switched(
        None,
        "Resumed; schedule and sensor are on. The sensor starts today's run within a minute, if it is due and message "
        "cleanup has succeeded.",
    )
