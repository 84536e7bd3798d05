"""What preflight and judgement have to say of a database, and the error that keeps a rule from touching it."""

from dataclasses import dataclass
from enum import StrEnum

from cleanup_pipeline.postgres import CleanupError


class RefusedError(CleanupError):
    """A safety check says no; nothing was touched."""


class Severity(StrEnum):
    """What follows from a finding."""

    REFUSAL = "refused"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that preflight has to say: what was found, and what to do about it."""

    severity: Severity
    what: str
    do: str = ""

    def __str__(self) -> str:
        return f"{self.what} {self.do}".strip()
