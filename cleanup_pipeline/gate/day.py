"""The UTC day, to which attempts and runs belong."""

from datetime import UTC, date, datetime, time, timedelta

NIGHTLY_AT = time(4)
"""When a day's run is due, in UTC: one hour after message cleanup."""
NIGHTLY_CRON = f"{NIGHTLY_AT.minute} {NIGHTLY_AT.hour} * * *"


# From here on a number can't be seconds (it would be the year 5138): it is milliseconds, as JavaScript counts.
_MILLISECONDS_FROM = 1e11


def utc_now() -> datetime:
    """Read the wall clock, the only one that the gate looks at. Tests replace this function."""
    return datetime.now(UTC)


def utc_day(instant: datetime) -> date:
    """Return the UTC day of an instant with a zone."""
    return instant.astimezone(UTC).date()


def from_epoch(epoch: float | None) -> datetime | None:
    """Read an instant in seconds or milliseconds since 1970; a number that is no instant, whichever it is, is none."""
    if epoch is None:
        return None
    try:
        return datetime.fromtimestamp(epoch / 1000 if abs(epoch) >= _MILLISECONDS_FROM else epoch, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def at(day: date, hour: time) -> datetime:
    """Return the instant of that hour (UTC) of the day."""
    return datetime.combine(day, hour, tzinfo=UTC)


def nightly(day: date) -> datetime:
    """Return the instant from which the day's run may start."""
    return at(day, NIGHTLY_AT)


def next_day(day: date) -> date:
    """Return the day after."""
    return day + timedelta(days=1)


def clock(instant: datetime, day: date) -> str:
    """Write the instant for a sentence about `day`: `03:00:04 UTC`, with the date only where it is another day's."""
    instant = instant.astimezone(UTC)
    form = "%H:%M:%S UTC" if instant.date() == day else "%Y-%m-%d %H:%M:%S UTC"
    return instant.strftime(form)
