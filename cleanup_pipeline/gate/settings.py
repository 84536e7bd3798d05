"""The gate's settings, from the environment."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time
from typing import Literal

from cleanup_pipeline.gate.day import NIGHTLY_AT, at, next_day

WhenLate = Literal["hold", "run"]

_HOUR = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])")


class GateConfigurationError(ValueError):
    """A variable of the gate has a value that is not accepted."""

    def __init__(self, variable: str, value: str, accepted: str) -> None:
        super().__init__(f"{variable} is {value!r}; accepted is {accepted}.")
        self.variable = variable
        self.value = value
        self.accepted = accepted


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What an operator may set about the gate.

    `deadline` is the hour (UTC) from which a closed gate is late. `night_ends` is the hour (UTC) at which a nightly run
    stops cleanly. `job` and `location` name the Dagster job that is message cleanup; without a location, in any.
    `redis_url` is BullMQ's Redis (None: not looked at), as it was given; `redis_prefix` what its keys begin with.
    """

    gate_on: bool = True
    deadline: time = time(6)
    when_late: WhenLate = "hold"
    night_ends: time | None = None
    job: str = "message_cleanup"
    location: str | None = None
    redis_url: str | None = field(default=None, repr=False)
    redis_prefix: str | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Settings":
        """Read the settings; an empty value is one that is not set.

        Raises `GateConfigurationError`, which names the variable, its value and what is accepted.
        """
        defaults = cls()
        deadline = _hour(environment, "CLEANUP_GATE_DEADLINE")
        return cls(
            gate_on=_choice(environment, "CLEANUP_GATE", ("on", "off")) != "off",
            deadline=defaults.deadline if deadline is None else deadline,
            when_late="run" if _choice(environment, "CLEANUP_GATE_WHEN_LATE", ("hold", "run")) == "run" else "hold",
            night_ends=_hour(environment, "CLEANUP_NIGHT_ENDS"),
            job=_text(environment, "MESSAGE_CLEANUP_DAGSTER_JOB") or defaults.job,
            location=_text(environment, "MESSAGE_CLEANUP_DAGSTER_LOCATION"),
            redis_url=_text(environment, "MESSAGE_CLEANUP_REDIS_URL"),
            redis_prefix=_text(environment, "MESSAGE_CLEANUP_REDIS_PREFIX"),
        )

    def night_end(self, day: date) -> datetime | None:
        """Return the instant at which the run of `day` stops; an hour up to 04:00 is one of the following day."""
        if self.night_ends is None:
            return None
        return at(day if self.night_ends > NIGHTLY_AT else next_day(day), self.night_ends)


def _text(environment: Mapping[str, str], variable: str) -> str | None:
    return environment.get(variable, "").strip() or None


def _choice(environment: Mapping[str, str], variable: str, choices: tuple[str, ...]) -> str | None:
    value = _text(environment, variable)
    if value is not None and value.lower() not in choices:
        raise GateConfigurationError(variable, value, " or ".join(choices))
    return value and value.lower()


def _hour(environment: Mapping[str, str], variable: str) -> time | None:
    value = _text(environment, variable)
    if value is None:
        return None
    match = _HOUR.fullmatch(value)
    if match is None:
        raise GateConfigurationError(variable, value, "an hour of the day in UTC as HH:MM, such as 06:00")
    return time(int(match[1]), int(match[2]))
