"""Nights that have passed: the real job, run once for each, at the instant that it would have begun at."""

from datetime import UTC, datetime, timedelta

import psycopg
from dagster import DagsterInstance

from cleanup_pipeline.demo.data import plant
from cleanup_pipeline.gate.day import NIGHTLY_AT, at, utc_day
from cleanup_pipeline_tests.defs.runs import run_job


def plant_for_nights(url: str, rows: int, days: int) -> None:
    """Plant rows that become due bit by bit over the last days."""
    with psycopg.connect(url) as connection:
        plant(connection, rows)
        connection.execute("select setseed(0.4)")
        long_ago, since = "now() - %(span)s", "now() - %(span)s * random()"
        for statement in (
            f"update after_hours_declines set created_at = {since} - interval '6 days'",
            f"update after_hours_sessions set expires_at = {since} where ended_at is null",
            f"update device_fingerprints set created_at = {since}",
            f"update after_hours_profiles set created_at = {long_ago}, updated_at = {since}",
            f"update after_hours_preferences set created_at = {long_ago}, updated_at = {since}",
        ):
            connection.execute(statement, {"span": timedelta(days=days)})


def run_night(url: str, instance: DagsterInstance, days_ago: int) -> str:
    """Run the job as of 04:00 UTC of that day; returns the run's id."""
    day = utc_day(datetime.now(UTC)) - timedelta(days=days_ago)
    as_of = min(at(day, NIGHTLY_AT), datetime.now(UTC) - timedelta(seconds=10))
    config = {"resources": {"cleanup_run": {"config": {"as_of": as_of.isoformat(), "full_speed": True}}}}
    tags = {
        "cleanup/day": str(day),
        "cleanup/trigger": "schedule",
        ".dagster/repository": "__repository__@cleanup_pipeline",
    }
    return run_job(url, instance, config=config, tags=tags).run_id
