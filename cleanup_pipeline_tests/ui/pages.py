"""What a person looks at in the UI, page by page."""

from cleanup_pipeline_tests.ui.browser import Page
from cleanup_pipeline_tests.ui.deployment import Webserver, until


def open_graph(page: Page, server: Webserver) -> None:
    """Message cleanup, and the five assets below it."""
    page.open(
        f"{server.address}/assets/chat_service/message_cleanup?view=lineage&lineageScope=downstream",
        "message_cleanup",
        "Materialized",
        "3 / 3 Passed",
    )
    until("everything is loaded", lambda: not page.run("document.body.innerText.includes('Loading')"))


def open_asset(page: Page, server: Webserver, asset: str) -> None:
    """What an asset is, its state, and its latest numbers."""
    page.open(f"{server.address}/assets/after_hours/{asset}?view=overview", "rows_affected", "longest_batch_ms")


def open_plots(page: Page, server: Webserver, asset: str) -> None:
    """An asset's numbers over the nights."""
    open_asset(page, server, asset)
    page.click("Plots")
    until("the plots are drawn", lambda: page.run("document.querySelectorAll('canvas').length >= 5"))
    page.run("document.querySelector('canvas').scrollIntoView({block: 'center'})")


def open_check(page: Page, server: Webserver, asset: str, check: str) -> None:
    """A check, and what it last said."""
    page.open(
        f"{server.address}/assets/after_hours/{asset}?view=checks&checkDetail={check}", check, "Evaluation result"
    )


def open_run(page: Page, server: Webserver, run_id: str) -> None:
    """A run's log, at its end."""
    page.open(f"{server.address}/runs/{run_id}", "RUN_")


def open_runs(page: Page, server: Webserver) -> None:
    """The list of runs."""
    page.open(f"{server.address}/runs", "cleanup/outcome")


def open_last_nights(page: Page, server: Webserver, asset: str) -> None:
    """The picture of the last nights, which hangs on the asset that a run ends with."""
    open_asset(page, server, asset)
    page.wait_for("Rows cleaned a night")
    page.click("[Show Markdown]")
    page.wait_for("Copy")
