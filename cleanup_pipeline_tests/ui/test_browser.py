"""What a stranger sees in the UI, in a real browser."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from dagster import AssetKey, AssetMaterialization, DagsterInstance

from cleanup_pipeline.defs.assets import MESSAGE_CLEANUP
from cleanup_pipeline_tests.databases import fresh_database
from cleanup_pipeline_tests.ui import pages
from cleanup_pipeline_tests.ui.browser import CHROMIUM, browser
from cleanup_pipeline_tests.ui.deployment import make_home, webserver
from cleanup_pipeline_tests.ui.nights import plant_for_nights, run_night

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium; .ci/run installs it")


@pytest.fixture
def home(server_url: str, storage_template: str, tmp_path: Path) -> Iterator[Path]:
    with fresh_database(server_url, storage_template) as storage:
        yield make_home(tmp_path / "home", storage)


@pytest.mark.timeout(400)
def test_a_stranger_finds_the_story_the_numbers_the_checks_and_the_nights(database: str, home: Path) -> None:
    plant_for_nights(database, 1000, 20)
    with DagsterInstance.from_config(str(home)) as instance:
        instance.report_runless_asset_event(AssetMaterialization(MESSAGE_CLEANUP.key))
        run_night(database, instance, 2)
        refused = refused_night(database, instance, 1)
        run_id = run_night(database, instance, 0)
        deleted = declines_deleted(instance)
    with webserver(home, database) as server, browser() as page:
        page.size(1500, 1500)
        pages.open_graph(page, server)
        for asset in ("sessions", "declines", "device_fingerprints", "profiles", "preferences"):
            page.wait_for(asset)

        # Three clicks: the catalog, the asset; its numbers stand on its page.
        pages.open_asset(page, server, "declines")
        assert f"rows_affected\n{deleted}" in without_times(page.text())
        page.wait_for("Declines first made more than 7 days ago are deleted")
        page.wait_for("Never touched")
        page.wait_for("profile-service")
        page.wait_for("Fails if more than 26 hours since last materialization")
        page.wait_for("timestamp with time zone")

        pages.open_plots(page, server, "declines")
        for number in ("rows_affected", "rows_remaining", "duration_s", "longest_batch_ms", "table_size_mb"):
            page.wait_for(number)

        pages.open_check(page, server, "declines", "backlog")
        page.wait_for("Nothing that is due is left.")

        pages.open_run(page, server, run_id)
        page.wait_for(f"old_declines: {deleted} rows")

        pages.open_runs(page, server)
        page.wait_for("cleanup/outcome: refused")
        page.wait_for("cleanup/outcome: success")
        pages.open_run(page, server, refused)
        page.wait_for("RUN_FAILURE")

        pages.open_asset(page, server, "preferences")
        page.wait_for("· nothing ran, ✗ no run carried it out to its end.")
        page.wait_for("✗")
        pages.open_last_nights(page, server, "preferences")
        drawn = "[...document.images].filter(i => i.src.startsWith('data:image/svg') && i.naturalWidth > 0).length"
        assert page.run(drawn) == 1


def refused_night(database: str, instance: DagsterInstance, days_ago: int) -> str:
    with psycopg.connect(database, autocommit=True) as app:
        app.execute("alter table after_hours_declines rename to elsewhere")
        run_id = run_night(database, instance, days_ago)
        app.execute("alter table elsewhere rename to after_hours_declines")
    return run_id


def declines_deleted(instance: DagsterInstance) -> Any:
    event = instance.get_latest_materialization_event(AssetKey(["after_hours", "declines"]))
    assert event is not None
    assert event.asset_materialization is not None
    return event.asset_materialization.metadata["rows_affected"].value


def without_times(text: str) -> str:
    """The page's text without the line between a number's name and the number: when it was told."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "\n".join(line for line in lines if not line.endswith((" AM", " PM")))
