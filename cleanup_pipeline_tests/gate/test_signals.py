"""Signals: which day an attempt belongs to, and sources that fail."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Literal

import pytest

from cleanup_pipeline.gate.signals import Signal, attempt_day, describe, listen, one_line

NOW = datetime(2026, 11, 24, 4, tzinfo=UTC)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("scheduled", "started", "reported", "day"),
    [
        pytest.param("2026-11-23T03:00", "2026-11-24T00:05", "2026-11-24T00:10", 23, id="overdue: when it was due"),
        pytest.param("2026-11-25T03:00", "2026-11-24T22:00", "2026-11-24T22:05", 24, id="promoted: when it started"),
        pytest.param(None, "2026-11-23T23:59", "2026-11-24T00:10", 23, id="by hand: when it started"),
        pytest.param("2026-11-24T03:00", None, "2026-11-24T03:05", 24, id="not started: when it is due"),
        pytest.param(None, None, "2026-11-24T03:05", 24, id="neither is known: what it is reported for"),
    ],
)
def test_an_attempts_day(scheduled: str | None, started: str | None, reported: str, day: int) -> None:
    belongs_to = attempt_day(utc(scheduled) if scheduled else None, utc(started) if started else None, utc(reported))

    assert belongs_to == date(2026, 11, day)


def test_an_attempts_day_is_that_of_utc_whatever_the_zone() -> None:
    in_tokyo = datetime(2026, 11, 24, 8, 30, tzinfo=timezone(timedelta(hours=9)))

    assert attempt_day(in_tokyo, None, NOW) == date(2026, 11, 23)


@dataclass(frozen=True)
class Broken:
    source: Literal["bullmq"] = "bullmq"

    def signals(self, now: datetime) -> Sequence[Signal]:
        raise ConnectionError(f"redis://user:secret@cache:6379 refused at {now}\nsecond line")


@dataclass(frozen=True)
class Silent:
    source: Literal["dagster_run"] = "dagster_run"

    def signals(self, now: datetime) -> Sequence[Signal]:  # noqa: ARG002 - a source is given the time
        return []


def test_a_source_that_raises_is_unreachable_and_one_without_a_trace_unknown() -> None:
    heard = listen([Broken(), Silent()], NOW)

    assert [(signal.source, signal.state) for signal in heard] == [
        ("bullmq", "unreachable"),
        ("dagster_run", "unknown"),
    ]


def test_an_error_is_told_in_one_line_without_a_password() -> None:
    (broken,) = listen([Broken()], NOW)

    assert broken.detail == "ConnectionError: redis://…@cache:6379 refused at 2026-11-24 04:00:00+00:00"


def test_an_error_without_words_is_told_by_its_kind() -> None:
    assert describe(TimeoutError()) == "TimeoutError"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("connect postgres://u:secret@db/app failed", "connect postgres://…@db/app failed"),
        ("connect postgres://u:sec@ret@db/app failed", "connect postgres://…@db/app failed"),
        ("connect postgres://u:sec/ret@db/app failed", "connect postgres://…@db/app failed"),
        ("connect postgres://u:sec?r#et@db/app failed", "connect postgres://…@db/app failed"),
        ("connect postgres://u:sec ret@db/app failed", "connect postgres://…@db/app failed"),
        ("redis://cache refused, postgres://u:secret@db too", "redis://…@db too"),
        ("no route for host=db password=secret dbname=app", "no route for host=db password=…"),
        ('refused {"dbPassword": "sec ret", "port": 1}', 'refused {"dbPassword": …'),
        ("login failed: pass = two words", "login failed: pass = …"),
        ("password 'secret' rejected", "password …"),
        ("{'password' => 'secret'}", "{'password' => …"),
        ("AWS_SECRET_ACCESS_KEY=abc api_key=def", "AWS_SECRET_ACCESS_KEY=…"),
        ("Authorization: Bearer abc", "Authorization: …"),
        ("sent bearer abc to it", "sent bearer … to it"),
        ("postgres:secret@db refused", "…@db refused"),
        ("redis://cache?db=1&password=secret&ssl=no", "redis://cache?db=1&password=…"),
        ("password authentication failed for user app", "password authentication failed for user app"),
        ("https://chat.internal/purge answered 500", "https://chat.internal/purge answered 500"),
    ],
)
def test_a_password_in_free_text_is_masked_however_it_is_written(said: str, told: str) -> None:
    assert one_line(said) == told


def test_a_password_is_masked_before_the_text_is_cut_however_long_that_is() -> None:
    far = 10**5

    assert one_line(f"://u:{'p' * far}@db") == "://…@db"
    assert one_line(f"secret={'p' * far}") == "secret=…"
    assert one_line("pwd = " * far) == "pwd = …"
    assert len(one_line("://" * far)) == len(one_line("a:" * far)) == 200


def test_free_text_is_cut_to_one_short_line_without_control_characters() -> None:
    assert one_line("\n  \x1b[31mboom\x07 \nmore") == "[31mboom"
    assert len(one_line("x" * 1000)) == 200
