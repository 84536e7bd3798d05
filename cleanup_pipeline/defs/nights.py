"""The last nights as Dagster's own event log tells of them: rows cleaned, gaps and failures, as a picture.

Every question is bounded, and none of them is worth a run: what can't be read is left out.
"""

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import cast

from dagster import AssetKey, AssetRecordsFilter, DagsterInstance, EventLogRecord

from cleanup_pipeline.gate.day import from_epoch, utc_day
from cleanup_pipeline.rules import RULES_ON, Rule
from cleanup_pipeline.sweep.result import Result, Status

NIGHTS = 30
# A run each night and a few by hand: more than that is not looked through.
_MOST_RECORDS = 100


@dataclass(frozen=True, slots=True)
class Night:
    """What one rule did on one UTC day: rows cleaned, over all of the day's runs; None: it was not carried out.

    `good`: one of them carried it out to its end.
    """

    rows: int | None = None
    good: bool = False

    def __or__(self, other: "Night") -> "Night":
        rows = None if self.rows is None and other.rows is None else (self.rows or 0) + (other.rows or 0)
        return Night(rows, self.good or other.good)


Nights = Mapping[str, Sequence[Night]]
"""For each rule its nights, the oldest first."""


def last_nights(instance: DagsterInstance, now: datetime, tonight: Sequence[Result], run_id: str) -> Nights:
    """Return the last nights up to that of `now`; of the run that is on, what it has done is `tonight`."""
    today = utc_day(now)
    days = [first_night(today) + timedelta(days=number) for number in range(NIGHTS)]
    told = {rule.name: _by_day(_records(instance, rule, days[0]), run_id) for rule in RULES_ON}
    for result in tonight:
        night = Night(result.affected, is_complete(result))
        told[result.rule][today] = told[result.rule].get(today, Night()) | night
    return {name: [nights.get(day, Night()) for day in days] for name, nights in told.items()}


def first_night(last: date) -> date:
    """The first of the nights that are shown up to `last`."""
    return last - timedelta(days=NIGHTS - 1)


def is_complete(result: Result) -> bool:
    """Whether a rule was carried out. One that the run's time did not last for has no error, but nobody has looked."""
    return result.status is Status.SUCCESS and result.remaining is not None


def clean_at(instance: DagsterInstance, rule: Rule) -> datetime | None:
    """The `as_of` of the last night on record that left nothing of the rule behind; None: not known."""
    key = AssetKey(rule.asset)
    try:
        records = instance.fetch_materializations(AssetRecordsFilter(asset_key=key), limit=_MOST_RECORDS).records
    except Exception:
        return None
    clean = (record for record in records if _number(record, "rows_remaining") == 0)
    return next((as_of for record in clean if (as_of := _as_of(record))), None)


def _records(instance: DagsterInstance, rule: Rule, since: date) -> Iterable[EventLogRecord]:
    """What the rule's ops told: a materialization where it was carried out, else an observation."""
    after = datetime(since.year, since.month, since.day, tzinfo=UTC).timestamp()
    wanted = AssetRecordsFilter(asset_key=AssetKey(rule.asset), after_timestamp=after)
    yield from instance.fetch_materializations(wanted, limit=_MOST_RECORDS).records
    yield from instance.fetch_observations(wanted, limit=_MOST_RECORDS).records


def _by_day(records: Iterable[EventLogRecord], run_id: str) -> dict[date, Night]:
    nights: dict[date, Night] = {}
    for record in records:
        rows = _number(record, "rows_affected")
        if record.run_id == run_id or rows is None:
            continue
        day = utc_day(_as_of(record) or datetime.fromtimestamp(record.timestamp, UTC))
        nights[day] = nights.get(day, Night()) | Night(int(rows), record.asset_materialization is not None)
    return nights


def _number(record: EventLogRecord, name: str) -> float | None:
    event = record.asset_materialization or record.asset_observation
    value = event.metadata.get(name) if event else None
    number = cast("float | None", value.value) if value and isinstance(value.value, int | float) else None
    return None if isinstance(number, float) and not math.isfinite(number) else number


def _as_of(record: EventLogRecord) -> datetime | None:
    return from_epoch(_number(record, "as_of"))


# --- As a line of text.

_BARS = "▁▂▃▄▅▆▇█"
_GAP, _BAD = "·", "✗"
LEGEND = f"{_GAP} nothing ran, {_BAD} no run carried it out to its end."


def spark(nights: Sequence[Night]) -> str:
    """One character a night: a bar by the rows cleaned, a dot where nothing ran, a cross where it did not end well."""
    most = max((night.rows or 0 for night in nights), default=0)
    return "".join(_character(night, most) for night in nights)


def _character(night: Night, most: int) -> str:
    if night.rows is None:
        return _GAP
    if not night.good:
        return _BAD
    return _BARS[max(1, round((len(_BARS) - 1) * _fraction(night.rows, most)))] if night.rows else _BARS[0]


def _fraction(rows: int, most: int) -> float:
    """How tall a bar is, of 1: by the root, so that one large backlog does not make all other nights look alike."""
    return math.sqrt(rows / most) if most else 0.0


# --- As a picture. Plain SVG, inline in Markdown: the UI shows it, and a plotting library would only weigh.

_LEFT, _STEP, _BAR, _HEIGHT, _LEAST, _GAP_BETWEEN, _TOP = 150, 18, 14, 44, 3, 26, 40
_WIDTH = _LEFT + NIGHTS * _STEP + 90
_GOOD_COLOR, _BAD_COLOR, _GAP_COLOR, _INK = "#4f43dd", "#d64545", "#c9ccd3", "#231f1b"


def picture(nights: Nights, last: date) -> str:
    """Return the nights up to `last` as Markdown with one inline picture."""
    image = base64.b64encode(_svg(nights, last).encode()).decode()
    return f"![Rows cleaned in each of the last {NIGHTS} nights](data:image/svg+xml;base64,{image})"


def _svg(nights: Nights, last: date) -> str:
    height = _TOP + len(nights) * (_HEIGHT + _GAP_BETWEEN) + 14
    rows = [_row(name, of_rule, _TOP + place * (_HEIGHT + _GAP_BETWEEN)) for place, (name, of_rule) in _places(nights)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'font-family="sans-serif" font-size="12" fill="{_INK}"><rect width="100%" height="100%" fill="#fff"/>'
        f'<text x="12" y="22" font-size="14" font-weight="bold">Rows cleaned a night</text>'
        f'<text x="{_LEFT + 80}" y="22">by their square roots; grey: nothing ran; red: no run carried it out</text>'
        f"{''.join(rows)}"
        f'<text x="{_LEFT}" y="{height - 8}">{first_night(last)}</text>'
        f'<text x="{_LEFT + NIGHTS * _STEP}" y="{height - 8}" text-anchor="end">{last}</text></svg>'
    )


def _places(nights: Nights) -> Iterable[tuple[int, tuple[str, Sequence[Night]]]]:
    return enumerate(nights.items())


def _row(name: str, nights: Sequence[Night], top: int) -> str:
    base = top + _HEIGHT
    most = max((night.rows or 0 for night in nights), default=0)
    paths = dict.fromkeys((_GOOD_COLOR, _BAD_COLOR, _GAP_COLOR), "")
    for place, night in enumerate(nights):
        x = _LEFT + place * _STEP
        color = _GAP_COLOR if night.rows is None else _GOOD_COLOR if night.good else _BAD_COLOR
        # A few pixels at least: a night without rows to clean is to be seen, and so is one that failed at once.
        tall = _LEAST + round((_HEIGHT - _LEAST) * _fraction(night.rows or 0, most))
        paths[color] += f"M{x} {base}v-{tall}h{_BAR}v{tall}z"
    drawn = "".join(f'<path fill="{color}" d="{path}"/>' for color, path in paths.items() if path)
    tonight = nights[-1].rows
    told = "-" if tonight is None else f"{tonight:,}"
    return (
        f'<text x="12" y="{base - 4}">{name}</text>{drawn}'
        f'<text x="{_LEFT + NIGHTS * _STEP + 8}" y="{base - 4}" font-weight="bold">{told}</text>'
        f'<text x="{_LEFT + NIGHTS * _STEP + 8}" y="{base - _HEIGHT + 8}" font-size="10">at most {most:,}</text>'
    )
