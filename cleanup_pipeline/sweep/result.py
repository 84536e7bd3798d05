"""What a sweep reports: after each window, and at its end.

Importing this is cheap, since the command line knows statuses before it can afford a driver.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cleanup_pipeline.sweep.finding import Finding


class Status(StrEnum):
    """How a rule, or a whole run, ended; the worst first."""

    INTERRUPTED = "interrupted"
    FAILED = "failed"
    REFUSED = "refused"
    SKIPPED = "skipped"
    SUCCESS = "success"


def worst(statuses: "list[Status]") -> Status:
    """How a run ended whose rules ended so. A run without rules is a success."""
    return min(statuses, key=list(Status).index, default=Status.SUCCESS)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a sweep is.

    `share` is the part that is done, 0 to 1, of the table in this pass or of the rows that the run may take;
    `elapsed_s` counts from the sweep's start.
    """

    rule: str
    stage: str
    affected: int
    share: float
    elapsed_s: float

    @property
    def rows_per_second(self) -> float:
        """Rows cleaned a second, since the start."""
        return self.affected / self.elapsed_s if self.elapsed_s > 0 else 0.0

    @property
    def left_s(self) -> float | None:
        """Seconds left at this rate; None where nothing is done yet."""
        return self.elapsed_s * (1 - self.share) / self.share if self.share > 0 else None


@dataclass(slots=True)
class Result:
    """How a sweep ended.

    Counts are of committed changes. `remaining` is how many rows are due and still there (None: not known). A *batch*
    is one writing transaction. `duration_s` is the sweep's own time, from preflight to the look at what remains.
    `oldest` is the time, as PostgreSQL writes it, of the oldest due row that was met: of all of them where an index
    leads to them; else, once one of them is overdue, no older one is looked for. None: there was none, or the rule's
    rows don't tell since when they are due. `findings` are preflight's, None where it could not look.
    """

    rule: str
    status: Status = Status.SUCCESS
    affected: int = 0
    remaining: int | None = None
    batches: int = 0
    duration_s: float | None = None
    longest_batch_ms: float | None = None
    access: str | None = None
    error: str | None = None
    notes: list[str] = field(default_factory=list)
    oldest: str | None = None
    findings: "list[Finding] | None" = None

    @property
    def rows_per_second(self) -> float | None:
        """Rows cleaned a second, over the whole of `duration_s`."""
        if self.duration_s is None:
            return None
        return self.affected / self.duration_s if self.duration_s > 0 else 0.0

    def as_json(self) -> dict[str, object]:
        """The rule's part of the JSON of `run`."""
        rate = self.rows_per_second
        return {
            "status": self.status.value,
            "affected": self.affected,
            "remaining": self.remaining,
            "batches": self.batches,
            "duration_s": None if self.duration_s is None else round(self.duration_s, 3),
            "longest_batch_ms": None if self.longest_batch_ms is None else round(self.longest_batch_ms, 1),
            "rows_per_second": None if rate is None else round(rate),
            "access": self.access,
            "error": self.error,
        }
