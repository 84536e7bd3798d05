"""The instant that all of a run measures age against.

Importing this is cheap, since the command line reads instants before it can afford a driver.
"""

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cleanup_pipeline.postgres import Session

# Ages are subtracted from it: a year that leaves no room for them is a slip of the pen anyway.
_MIDNIGHT_AS_24 = re.compile("[0-9Ww-]{8,10}[^0-9]24:?00")
_EARLIEST = datetime(1900, 1, 1, tzinfo=UTC)


def parse_as_of(given: str, name: str = "as_of") -> datetime:
    """Read ISO 8601 with a zone (`Z` or an offset). Raises `ValueError`, whose text says what is wrong with `name`."""
    if _MIDNIGHT_AS_24.match(given):  # which Python reads as of 3.14
        raise ValueError(f"{name} {given!r}: write 24:00 as 00:00 of the day after.")
    try:
        as_of = datetime.fromisoformat(given.upper())
    except ValueError:
        raise ValueError(f"{name} {given!r} is not ISO 8601, such as 2026-11-24T04:00:00Z.") from None
    if as_of.tzinfo is None:
        raise ValueError(f"{name} {given!r} has no zone: add Z or an offset, such as 2026-11-24T04:00:00Z.")
    if as_of < _EARLIEST:
        raise ValueError(f"{name} {given!r} lies before {_EARLIEST.year}.")
    try:
        return as_of.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{name} {given!r} lies after the year 9999.") from None


def choose_as_of(session: "Session", given: str | None) -> datetime:
    """The instant that a run measures age against: `given`, or now by the database's clock.

    Raises `ConfigurationError` where `given` has no zone, can't be read, or lies in the future; `UnreachableError`.
    """
    from psycopg import sql

    from cleanup_pipeline.postgres import ConfigurationError, Limits

    try:
        as_of = None if given is None else parse_as_of(given)
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    with session.transaction(Limits(statement_s=5.0)) as transaction:
        now: datetime = transaction.one(sql.SQL("select pg_catalog.clock_timestamp()"))[0]
    if as_of is None:
        return now.astimezone(UTC)
    if as_of > now:
        raise ConfigurationError(
            f"as_of lies in the future ({as_of.isoformat()}); the database's clock says {now.isoformat()}."
        )
    return as_of
