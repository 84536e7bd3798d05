"""What a tick of the alerts' sensor does: look, tell, and say in one line what came of it."""

import os
from dataclasses import dataclass

from dagster import DagsterInstance

from cleanup_pipeline.alerts.alert import alerts
from cleanup_pipeline.alerts.facts import gather
from cleanup_pipeline.alerts.memory import Memory
from cleanup_pipeline.alerts.telling import tell
from cleanup_pipeline.gate import day
from cleanup_pipeline.gate.pause import Pause
from cleanup_pipeline.gate.signals import describe

WEBHOOK_VARIABLE = "CLEANUP_ALERT_WEBHOOK_URL"
UI_VARIABLE = "CLEANUP_UI_URL"


@dataclass(frozen=True)
class Alerted:
    """What a tick came to: the next cursor, lines for the log, and one for the tick."""

    cursor: str
    log: tuple[str, ...]
    said: str


def alert(instance: DagsterInstance, cursor: str | None) -> Alerted:
    """Tell people what they must hear of. Never raises: a storage or webhook that is down is told in the tick."""
    now = day.utc_now()
    memory = Memory.read(cursor, now)
    said: list[str] = []
    new: dict[str, str] = {}
    try:
        facts = gather(instance, now, os.environ, memory.watched_since)
    except Exception as error:
        said.append(f"Dagster's storage can't be read: {describe(error)}.")
    else:
        ui_url = os.environ.get(UI_VARIABLE) or None
        new = memory.add((found.event_id, found.text(ui_url)) for found in alerts(facts))
        said += _pause(facts.pause)
    told = tell(memory, os.environ.get(WEBHOOK_VARIABLE, "").strip() or None)
    said += [f"Told: {', '.join(told.acknowledged)}."] if told.acknowledged else []
    if memory.pending:
        why = "; ".join(dict.fromkeys(told.troubles)) or "there was no time left"
        said.append(f"To be told again, since {why}: {', '.join(memory.pending)}.")
    return Alerted(memory.write(), tuple(new.values()), " ".join(said) or "Nothing to tell.")


def _pause(pause: Pause | None) -> list[str]:
    """For the UI, where schedule and sensor themselves show only that they are off."""
    return [pause.sentence()] if pause else []
