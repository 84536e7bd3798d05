"""Reading the instant that age is measured against."""

from datetime import UTC, datetime

import pytest

from cleanup_pipeline.sweep.as_of import parse_as_of


@pytest.mark.parametrize(
    "given",
    [
        "2026-11-24T04:00:00Z",
        "2026-11-24T04:00:00z",
        "2026-11-24t04:00:00z",
        "2026-11-24 05:00:00+01:00",
        "20261124T040000Z",
        "2026-W48-2T04:00Z",
    ],
)
def test_an_instant_is_read_as_iso_8601_writes_it(given: str) -> None:
    assert parse_as_of(given) == datetime(2026, 11, 24, 4, tzinfo=UTC)


@pytest.mark.parametrize("given", ["2026-11-24T24:00:00Z", "2026-11-24 24:00+01:00", "20261124T240000z"])
def test_midnight_as_24_00_is_refused_with_how_to_write_it(given: str) -> None:
    with pytest.raises(ValueError, match="write 24:00 as 00:00 of the day after"):
        parse_as_of(given)
