"""The pause: schedule and sensor off, since when and why, as Dagster's storage has it.

Dagster keeps whether they are on. When and why they were switched off stands beside it, in the storage's own place for
small values: no table of ours.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from dagster import DagsterInstance
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import (
    InstigatorData,
    InstigatorState,
    InstigatorStatus,
    ScheduleInstigatorData,
    SensorInstigatorData,
)

from cleanup_pipeline.gate.day import NIGHTLY_CRON

SCHEDULE = "session_cleanup_daily"
SENSOR = "session_cleanup_gate"
SENSOR_EVERY_S = 30

LOCATION = "cleanup_pipeline"
"""The code location's name in workspace.yaml."""

_NOTE = "cleanup/pause"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Schedule or sensor is off; `off` names which.

    Without a `reason` it was switched off by hand, in the UI say, and `since` is when that was first seen
    (None: nobody has looked since).
    """

    since: datetime | None
    reason: str | None
    off: tuple[str, ...]

    @property
    def whole(self) -> bool:
        """Whether both are off, and it is known why."""
        return self.reason is not None and set(self.off) == {SCHEDULE, SENSOR}

    def to_json(self) -> dict[str, object]:
        """Return the pause as `status --json` prints it."""
        since = self.since.astimezone(UTC).isoformat(timespec="seconds") if self.since else None
        return {"since": since, "reason": self.reason, "off": list(self.off)}

    def sentence(self) -> str:
        """Say since when and why."""
        when = f" since {self.since.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if self.since else ""
        if self.reason is None:
            return f"Paused{when} at least: {' and '.join(self.off)} switched off by hand."
        part = "" if self.whole else f" ({' and '.join(self.off)} alone)"
        return f"Paused{when}{part}: {self.reason.removesuffix('.')}."


def find_pause(instance: DagsterInstance) -> Pause | None:
    """Return the pause that is on, if any. Raises what Dagster's storage raises."""
    off = tuple(name for name in (SCHEDULE, SENSOR) if any(not state.is_running for state in _states(instance, name)))
    if not off:
        return None
    note = _note(instance)
    return Pause(since=_instant(note.get("since")), reason=_text(note.get("reason")), off=off)


def begin_pause(instance: DagsterInstance, now: datetime, reason: str) -> Pause:
    """Switch both off. A pause that is on already, for a reason, goes on as it is."""
    found = find_pause(instance)
    if found is not None and found.whole:
        return found
    since = (found and found.since) or now
    # The reason first: whoever sees one of them off can tell why.
    _write_note(instance, since=since.astimezone(UTC).isoformat(), reason=reason)
    for name in (SENSOR, SCHEDULE):
        _switch(instance, name, InstigatorStatus.STOPPED, now)
    return Pause(since=since, reason=reason, off=(SCHEDULE, SENSOR))


def end_pause(instance: DagsterInstance, now: datetime) -> Pause | None:
    """Switch on what is off; returns the pause that has ended, if one was on."""
    found = find_pause(instance)
    for name in found.off if found else ():
        _switch(instance, name, InstigatorStatus.RUNNING, now)
    _forget(instance)
    return found


def keep_note(instance: DagsterInstance, now: datetime) -> Pause | None:
    """Look, and note what nobody has: since when something is seen to be off, or that all is on again."""
    found = find_pause(instance)
    if found is None:
        _forget(instance)
        return None
    if found.since is None:
        _write_note(instance, since=now.astimezone(UTC).isoformat(), reason=None)
        return find_pause(instance)
    return found


def _states(instance: DagsterInstance, name: str) -> Sequence[InstigatorState]:
    """Whatever code location they are loaded from. The daemon writes the first when it first runs."""
    return [state for state in instance.all_instigator_state(instigator_type=_KINDS[name]) if state.name == name]


def _switch(instance: DagsterInstance, name: str, status: InstigatorStatus, now: datetime) -> None:
    """Do what Dagster does for a toggle in the UI, without loading the code location."""
    states = _states(instance, name)
    for state in states:
        if state.is_running != (status is InstigatorStatus.RUNNING):
            instance.update_instigator_state(state.with_status(status).with_data(_data(name, state, status, now)))
    if not states:
        repository = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin(LOCATION), "__repository__")
        origin = repository.get_instigator_origin(name)
        instance.add_instigator_state(InstigatorState(origin, _KINDS[name], status, _data(name, None, status, now)))


def _data(name: str, state: InstigatorState | None, status: InstigatorStatus, now: datetime) -> InstigatorData:
    """Of a schedule that goes on, the instant from which ticks count: none that it slept through is made up."""
    known = state.instigator_data if state else None
    starts = status is InstigatorStatus.RUNNING
    if name == SCHEDULE:
        if isinstance(known, ScheduleInstigatorData) and not starts:
            return known
        return ScheduleInstigatorData(NIGHTLY_CRON, now.timestamp() if starts else None)
    data = known if isinstance(known, SensorInstigatorData) else SensorInstigatorData(min_interval=SENSOR_EVERY_S)
    return data.with_sensor_start_timestamp(now.timestamp()) if starts else data


_KINDS = {SCHEDULE: InstigatorType.SCHEDULE, SENSOR: InstigatorType.SENSOR}


def _note(instance: DagsterInstance) -> dict[str, Any]:
    try:
        note = json.loads(instance.daemon_cursor_storage.get_cursor_values({_NOTE}).get(_NOTE) or "{}")
    except ValueError:
        return {}
    return cast("dict[str, Any]", note) if isinstance(note, dict) else {}


def _write_note(instance: DagsterInstance, **note: str | None) -> None:
    instance.daemon_cursor_storage.set_cursor_values({_NOTE: json.dumps(note)})


def _forget(instance: DagsterInstance) -> None:
    if _note(instance):
        _write_note(instance)


def _instant(value: object) -> datetime | None:
    try:
        instant = datetime.fromisoformat(value) if isinstance(value, str) else None
        return instant.astimezone(UTC) if instant is not None and instant.tzinfo else None
    except (ValueError, OverflowError):
        return None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
