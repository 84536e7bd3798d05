"""Times as PostgreSQL writes them, which Python can't read where they are infinite, BC, or of five-digit years."""

from datetime import UTC, datetime


def earliest(*moments: str | None) -> str | None:
    """The earliest of those that are known."""
    return min((moment for moment in moments if moment is not None), key=_sort_key, default=None)


def latest(*moments: str | None) -> str | None:
    """The latest of those that are known."""
    return max((moment for moment in moments if moment is not None), key=_sort_key, default=None)


def is_before(moment: str, instant: datetime) -> bool:
    """Whether the moment lies before the instant, which has a zone."""
    return _sort_key(moment) < _sort_key(instant.astimezone(UTC).isoformat(sep=" ").removesuffix(":00"))


def _sort_key(moment: str) -> tuple[int, str]:
    """An order for times as PostgreSQL writes them: -infinity, then BC (a later year is earlier), then the rest."""
    if moment == "-infinity":
        return (0, "")
    if moment.endswith("BC"):
        return (1, "".join(chr(0x10FFFF - ord(c)) for c in moment.split("-")[0].zfill(8)))
    return (2, moment.split("-")[0].zfill(8) + moment)
