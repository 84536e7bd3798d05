"""Telling what is pending, within a limited time."""

import time
from dataclasses import dataclass, field

from cleanup_pipeline.alerts.memory import Memory
from cleanup_pipeline.alerts.webhook import NotAcknowledgedError, post

WITHIN_S = 3.0
"""For all that one tick tells."""


@dataclass
class Told:
    """What came of it: events that were acknowledged, and why others were not."""

    acknowledged: list[str] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)


def tell(memory: Memory, webhook_url: str | None) -> Told:
    """Tell everything that is pending, oldest first. Without a webhook the log was told, which is all there is."""
    told = Told()
    ends = time.monotonic() + WITHIN_S
    for event_id, text in list(memory.pending.items()):
        left_s = ends - time.monotonic()
        if left_s <= 0:
            break
        try:
            if webhook_url:
                post(webhook_url, text, event_id, left_s)
        except NotAcknowledgedError as error:
            told.troubles.append(str(error))
            if error.final:
                break
        else:
            memory.acknowledge(event_id)
            told.acknowledged.append(event_id)
    return told
