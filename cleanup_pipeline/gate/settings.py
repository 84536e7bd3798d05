"""The gate's settings, from the environment."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time
from typing import Literal, TypeVar

from cleanup_pipeline.gate.day import NIGHTLY_AT, at, next_day

T = TypeVar("T")
WhenLate = Literal["hold", "run"]

_HOUR = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What an operator may set about the gate.

    `deadline` is the hour (UTC) from which a closed gate is late. `night_ends` is the hour (UTC) at which a nightly run
    stops cleanly. `job` and `location` name the Dagster job that is message cleanup; without a location, in any.
    `redis_url` is BullMQ's Redis (None: not looked at), as it was given; `redis_prefix` what its keys begin with.
    `faults` say which variables are malformed, each as a part of a sentence; they have their defaults, and as long as
    there are any nothing is started.
    """

    gate_on: bool = True
    deadline: time = time(6)
    when_late: WhenLate = "hold"
    night_ends: time | None = None
    job: str = "message_cleanup"
    location: str | None = None
    redis_url: str | None = field(default=None, repr=False)
    redis_prefix: str | None = None
    faults: tuple[str, ...] = ()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Settings":
        """Read the settings; an empty value is one that is not set, and one that is malformed is among the `faults`."""
        read = _Environment(environment)
        defaults = cls()
        return cls(
            gate_on=read.choice("CLEANUP_GATE", "on", "off") != "off",
            deadline=read.hour("CLEANUP_GATE_DEADLINE", defaults.deadline),
            when_late="run" if read.choice("CLEANUP_GATE_WHEN_LATE", "hold", "run") == "run" else "hold",
            night_ends=read.hour("CLEANUP_NIGHT_ENDS", None),
            job=read.text("MESSAGE_CLEANUP_DAGSTER_JOB") or defaults.job,
            location=read.text("MESSAGE_CLEANUP_DAGSTER_LOCATION"),
            redis_url=read.text("MESSAGE_CLEANUP_REDIS_URL"),
            redis_prefix=read.text("MESSAGE_CLEANUP_REDIS_PREFIX"),
            faults=tuple(read.faults),
        )

    def night_end(self, day: date) -> datetime | None:
        """Return the instant at which the run of `day` stops; an hour up to 04:00 is one of the following day."""
        if self.night_ends is None:
            return None
        return at(day if self.night_ends > NIGHTLY_AT else next_day(day), self.night_ends)


class _Environment:
    """Reads variables; keeps what is wrong with those that can't be meant."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self.faults: list[str] = []

    def text(self, variable: str) -> str | None:
        return self._environment.get(variable, "").strip() or None

    def choice(self, variable: str, *choices: str) -> str | None:
        value = self.text(variable)
        if value is None:
            return None
        if value.lower() in choices:
            return value.lower()
        self._malformed(variable, value, " or ".join(choices))
        return None

    def hour(self, variable: str, default: T) -> time | T:
        value = self.text(variable)
        if value is None:
            return default
        match = _HOUR.fullmatch(value)
        if match:
            return time(int(match[1]), int(match[2]))
        self._malformed(variable, value, "an hour of the day in UTC as HH:MM, such as 06:00")
        return default

    def _malformed(self, variable: str, value: str, accepted: str) -> None:
        self.faults.append(f"{variable} is {value!r}, accepted is {accepted}")
