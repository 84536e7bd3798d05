"""The day's own runs, as the decision sees them."""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Literal

from cleanup_pipeline.gate.tags import Outcome

JOB = "session_cleanup"
"""The job whose runs these are."""

RunStatus = Literal["queued", "running", "success", "failed", "refused", "skipped", "interrupted", "superseded"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DayRun:
    """One run of the cleanup.

    `day` is the day that it was started for; None: a manual run. `outcome` is what the run itself said about its end,
    never what it inherited from a parent. `status` is that outcome, or what follows from Dagster's status. `claimed`:
    it holds the day's claim under its own id. `by` and `reason`: who started it from the command line, and why a person
    did. `lost_after` is the instant from which a run that has not ended is taken
    for lost, since run monitoring should have ended it; None: never.
    """

    run_id: str
    day: date | None
    trigger: str | None
    status: RunStatus
    created: datetime
    outcome: Outcome | None = None
    started: datetime | None = None
    ended: datetime | None = None
    claimed: bool = False
    by: str | None = None
    reason: str | None = None
    lost_after: datetime | None = None

    @property
    def good(self) -> bool:
        """Whether every rule that is on ended as success."""
        return self.status == "success"

    def is_on(self, now: datetime) -> bool:
        """Whether it has not ended and is not lost."""
        return self._unfinished and not self.is_lost(now)

    def is_lost(self, now: datetime) -> bool:
        """Whether it has not ended, and run monitoring should have ended it by `now`."""
        return self._unfinished and self.lost_after is not None and now >= self.lost_after

    def failed(self, now: datetime) -> bool:
        """Whether it used up an attempt: it failed, was interrupted, or is lost."""
        return self.status in ("failed", "interrupted") or self.is_lost(now)

    def over_at(self) -> datetime:
        """Return when it ended, or was taken for lost."""
        return self.ended or self.lost_after or self.started or self.created

    @property
    def _unfinished(self) -> bool:
        return self.status in ("queued", "running")

    def to_json(self) -> dict[str, str | None]:
        """Return the run as `status --json` prints it."""
        return {
            "run_id": self.run_id,
            "day": str(self.day) if self.day else None,
            "trigger": self.trigger,
            "status": self.status,
            "started": _iso(self.started),
            "ended": _iso(self.ended),
        }


def page_of(run_id: str, ui_url: str) -> str:
    """The run's page in the UI. A login that stands in its address is nobody's who reads the link."""
    # Rather too much is cut than too little: a password may hold any character.
    return f"{re.sub(r'^([a-z]+:/+)?.*@', lambda found: found[1] or '', ui_url.strip().rstrip('/'))}/runs/{run_id}"


def _iso(instant: datetime | None) -> str | None:
    return instant.astimezone(UTC).isoformat() if instant else None
