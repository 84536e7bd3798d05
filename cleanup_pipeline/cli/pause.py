"""`pause`: schedule and sensor off, together."""

from cleanup_pipeline.cli.options import Request
from cleanup_pipeline.cli.output import Streams
from cleanup_pipeline.cli.pausing import Switched, switching
from cleanup_pipeline.cli.watch import Watch
from cleanup_pipeline.gate import day
from cleanup_pipeline.gate.pause import begin_pause, find_pause


def work(request: Request, _: Streams, watch: Watch) -> Switched:
    """Switch both off, where they are not yet. Raises `CannotBeginError`."""
    with switching(watch) as instance:
        before = find_pause(instance)
        paused = begin_pause(instance, day.utc_now(), request.reason or "")
    if paused == before:
        return Switched(paused, f"It was paused already, and stays so. {paused.sentence()}")
    return Switched(
        paused,
        f"{paused.sentence()} No run starts by itself until cleanup-pipeline resume; one that is on goes on. "
        f"After a day people are reminded.",
    )
