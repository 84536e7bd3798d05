"""What `pause` and `resume` share: Dagster's storage, and an answer of one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import click
from dagster import DagsterInstance

from cleanup_pipeline.cli.errors import CannotBeginError, ExitCode
from cleanup_pipeline.cli.output import Stream
from cleanup_pipeline.cli.report import document
from cleanup_pipeline.cli.storage import find_storage
from cleanup_pipeline.cli.watch import Watch
from cleanup_pipeline.gate.pause import Pause


@dataclass(frozen=True)
class Switched:
    """The pause that is on now, if any, and the sentence for a person."""

    paused: Pause | None
    said: str

    code = ExitCode.DONE

    def as_json(self) -> str:
        """The one document, as `status` has it."""
        return document({"paused": self.paused.to_json() if self.paused else None})

    def as_text(self, _: Stream) -> str:
        """The sentence."""
        return f"{self.said}\n"

    def sentences(self) -> Iterator[str]:
        """Nothing besides."""
        yield from ()


@contextmanager
def switching(watch: Watch) -> Iterator[DagsterInstance]:
    """Open Dagster's storage, in which schedule and sensor are on or off. Raises `CannotBeginError`."""
    storage = find_storage(record=True)
    if storage.home is None:
        raise CannotBeginError(
            "DAGSTER_HOME is not set: schedule and sensor are on or off in Dagster's storage. Set it to the checkout."
        )
    storage.reach()
    with storage.instance() as instance:
        watch.begin()
        try:
            yield instance
        except Exception as error:
            # What it says may hold the storage's URL.
            raise click.ClickException(
                f"Dagster's storage failed meanwhile ({type(error).__name__}): look with cleanup-pipeline status, "
                f"and try again."
            ) from None
