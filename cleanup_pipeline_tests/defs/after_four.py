"""The code location for tests at any hour: by the gate's clock it is never before 04:00 UTC."""

from datetime import datetime

from cleanup_pipeline.definitions import defs as defs
from cleanup_pipeline.gate import day

_real = day.utc_now


def _after_four() -> datetime:
    now = _real()
    return max(now, day.nightly(day.utc_day(now)))


day.utc_now = _after_four
