"""`report-message-cleanup`: records by hand that message cleanup has succeeded, and tells what the gate makes of it."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from cleanup_pipeline.cli.errors import CannotBeginError, ExitCode
from cleanup_pipeline.cli.options import Request
from cleanup_pipeline.cli.output import Stream, Streams
from cleanup_pipeline.cli.report import document
from cleanup_pipeline.cli.storage import StorageError, find_storage
from cleanup_pipeline.cli.watch import Watch
from cleanup_pipeline.gate import day
from cleanup_pipeline.gate.dagster_facts import MESSAGE_CLEANUP
from cleanup_pipeline.gate.decision import Decision
from cleanup_pipeline.gate.look import look
from cleanup_pipeline.gate.record import record_success
from cleanup_pipeline.gate.signals import describe
from cleanup_pipeline.sweep.as_of import parse_as_of


@dataclass(frozen=True)
class Recorded:
    """What was recorded, and what the gate says now."""

    finished: datetime
    gate: Decision

    code = ExitCode.DONE

    def as_json(self) -> str:
        """The one document."""
        return document(
            {
                "asset": MESSAGE_CLEANUP.to_user_string(),
                "finished_at": self.finished.isoformat(),
                "day": str(day.utc_day(self.finished)),
                "gate": self.gate.to_json(),
            }
        )

    def as_text(self, _: Stream) -> str:
        """The same for a person."""
        finished_on = day.utc_day(self.finished)
        return (
            f"Recorded: message cleanup succeeded at {day.clock(self.finished, finished_on)}, for {finished_on}. "
            f"Gate: {self.gate.state}. {self.gate.reason}\n"
        )

    def sentences(self) -> Iterator[str]:
        """Nothing besides."""
        yield from ()


def work(request: Request, _: Streams, watch: Watch) -> Recorded:
    """Record it. Raises `CannotBeginError`."""
    now = day.utc_now()
    finished = now if request.at is None else parse_as_of(request.at, "T")
    if finished > now:
        raise CannotBeginError(f"--at lies in the future ({finished.isoformat()}); it is {now.isoformat()}.")
    storage = find_storage(record=True)
    if storage.home is None:
        raise StorageError("DAGSTER_HOME is not set: there is no storage to record message cleanup in.")
    storage.reach()
    with storage.instance() as instance:
        watch.begin()
        try:
            record_success(instance, finished, "by hand")
        except Exception as error:
            raise StorageError(f"Dagster's storage can't record it. {describe(error)}.") from None
        return Recorded(finished, look(instance, now, os.environ))
