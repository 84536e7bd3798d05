"""What preflight and judgement have to say of a database, and the error that keeps a rule from touching it."""

from dataclasses import dataclass
from enum import StrEnum

from cleanup_pipeline.postgres import CleanupError
from cleanup_pipeline.rules import escaped


class RefusedError(CleanupError):
    """A safety check says no; nothing was touched."""


class Severity(StrEnum):
    """What follows from a finding."""

    REFUSAL = "refused"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that preflight has to say: what was found, and what to do about it; each on one line."""

    severity: Severity
    what: str
    do: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "what", escaped(self.what))
        object.__setattr__(self, "do", escaped(self.do))

    def __str__(self) -> str:
        return f"{self.what} {self.do}".strip()
