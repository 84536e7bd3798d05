"""What has been told, and what is still to be told: it lives in the sensor's cursor."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

_MOST_ACKNOWLEDGED = 200
_MOST_PENDING = 50


@dataclass
class Memory:
    """Events by their id: `acknowledged` were told; `pending` have a text that waits for that, oldest first.

    A pending text is kept, since what it is about may be over before anybody could be told. Both are bounded.
    """

    watched_since: datetime
    acknowledged: list[str] = field(default_factory=list)
    pending: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, cursor: str | None, now: datetime) -> "Memory":
        """Read a cursor; one that can't be understood is a new beginning."""
        try:
            known = json.loads(cursor or "")
            since = datetime.fromisoformat(known["watched_since"])
            pending = {str(event_id): str(text) for event_id, text in known["pending"].items()}
            return cls(since.astimezone(UTC), [str(event_id) for event_id in known["acknowledged"]], pending)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
            return cls(now)

    def write(self) -> str:
        """Write the cursor."""
        return json.dumps(
            {
                "watched_since": self.watched_since.astimezone(UTC).isoformat(),
                "acknowledged": self.acknowledged[-_MOST_ACKNOWLEDGED:],
                "pending": dict(list(self.pending.items())[-_MOST_PENDING:]),
            }
        )

    def add(self, events: Iterable[tuple[str, str]]) -> dict[str, str]:
        """Take in what is to be told, as ids and texts; returns what is new."""
        known = {*self.acknowledged, *self.pending}
        new = {event_id: text for event_id, text in events if event_id not in known}
        self.pending.update(new)
        return new

    def acknowledge(self, event_id: str) -> None:
        """Note that somebody has heard of it."""
        del self.pending[event_id]
        self.acknowledged.append(event_id)
