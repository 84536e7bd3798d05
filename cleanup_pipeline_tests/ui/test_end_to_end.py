"""The whole pipeline as it is deployed, seen from outside: webserver and daemon, over HTTP alone."""

import os
import re
import signal
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from cleanup_pipeline.demo.data import plant
from cleanup_pipeline.rules import RULES
from cleanup_pipeline_tests.databases import fresh_database
from cleanup_pipeline_tests.defs.runs import NEVER_ENDING
from cleanup_pipeline_tests.oracle import expected, snapshot
from cleanup_pipeline_tests.ui.deployment import LOCATION, Webserver, deployment, make_home, until

JOB = {
    "repositoryLocationName": LOCATION,
    "repositoryName": "__repository__",
    "pipelineName": "session_cleanup",
}
App = psycopg.Connection[Any]


class Job:
    """The job, through the webserver."""

    def __init__(self, server: Webserver) -> None:
        self.server = server

    def launch(self, config: dict[str, Any] | None = None) -> str:
        answer = self.server.ask(
            "mutation ($params: ExecutionParams!) { launchPipelineExecution(executionParams: $params) {"
            " __typename ... on LaunchRunSuccess { run { runId } } } }",
            params={"selector": JOB, "runConfigData": yaml.safe_dump(config or {}), "mode": "default"},
        )["launchPipelineExecution"]
        assert answer["__typename"] == "LaunchRunSuccess", answer
        return str(answer["run"]["runId"])

    def terminate(self, run_id: str) -> None:
        answer = self.server.ask("mutation ($id: String!) { terminateRun(runId: $id) { __typename } }", id=run_id)[
            "terminateRun"
        ]
        assert answer["__typename"] == "TerminateRunSuccess", answer

    def runs(self, **filter_: Any) -> list[dict[str, Any]]:
        runs = self.server.ask(
            "query ($filter: RunsFilter!) { runsOrError(filter: $filter) { ... on Runs { results {"
            " runId status tags { key value } } } } }",
            filter={"pipelineName": "session_cleanup", **filter_},
        )["runsOrError"]["results"]
        return [run | {"tags": {tag["key"]: tag["value"] for tag in run["tags"]}} for run in runs]

    def ended(self, run_id: str) -> dict[str, Any]:
        """The run, once it has ended."""
        over = ("SUCCESS", "FAILURE", "CANCELED")

        def look() -> dict[str, Any] | None:
            (run,) = self.runs(runIds=[run_id])
            return run if run["status"] in over else None

        return until(f"run {run_id} ends", look)

    def said(self, run_id: str) -> str:
        """All that the run's log says."""
        events = self.server.ask(
            "query ($id: ID!) { logsForRun(runId: $id) { ... on EventConnection { events {"
            " ... on MessageEvent { message } } } } }",
            id=run_id,
        )["logsForRun"]["events"]
        return "\n".join(event["message"] for event in events if event)

    def told(self, run_id: str, kind: str) -> dict[str, dict[str, Any]]:
        """What the run told of each asset, materialized or observed; None: no whole number."""
        field = {"materialization": "assetMaterializations", "observation": "assetObservations"}[kind]
        assets = self.server.ask("{ assetsOrError { ... on AssetConnection { nodes { key { path } } } } }")
        told = {}
        for node in assets["assetsOrError"]["nodes"]:
            found = self.server.ask(
                "query ($key: AssetKeyInput!) { assetOrError(assetKey: $key) { ... on Asset { "
                f"{field}(limit: 10) {{ runId metadataEntries {{"
                " label ... on IntMetadataEntry { intValue } } } } } }",
                key={"path": node["key"]["path"]},
            )["assetOrError"].get(field, [])
            for event in found:
                if event["runId"] == run_id:
                    metadata = {entry["label"]: entry.get("intValue") for entry in event["metadataEntries"]}
                    told["/".join(node["key"]["path"])] = metadata
        return told


@pytest.mark.timeout(400)
def test_the_pipeline_as_it_is_deployed(
    server_url: str, storage_template: str, app: App, database: str, tmp_path: Path
) -> None:
    plant(app, 2000)
    with fresh_database(server_url, storage_template) as storage:
        home = make_home(tmp_path / "home", storage, "cleanup_pipeline_tests.ui.night_from_midnight")
        with deployment(home, database) as server:
            job = Job(server)
            assert_the_definitions_are_there(server)
            assert_the_sensor_waits_for_message_cleanup(server)
            assert_a_launched_run_cleans_what_was_promised(job, app)
            assert_a_terminated_run_stops_with_true_counts(job, app)
            assert_after_a_killed_worker_the_next_run_starts_by_itself(job, app)
            assert_reported_message_cleanup_starts_the_days_run(job, app)


def assert_the_definitions_are_there(server: Webserver) -> None:
    nodes = server.ask(
        "{ assetNodes { assetKey { path } dependencyKeys { path } owners { ... on TeamAssetOwner { team } } kinds"
        " assetChecksOrError { ... on AssetChecks { checks { name } } } } }"
    )["assetNodes"]
    by_key = {"/".join(node["assetKey"]["path"]): node for node in nodes}
    assert set(by_key) == {"chat_service/message_cleanup", *("/".join(rule.asset) for rule in RULES)}
    for rule in RULES:
        node = by_key["/".join(rule.asset)]
        assert node["dependencyKeys"] == [{"path": ["chat_service", "message_cleanup"]}]
        assert (node["owners"], node["kinds"]) == ([{"team": "profile-service"}], ["postgres"])
        assert {check["name"] for check in node["assetChecksOrError"]["checks"]} == {"age", "backlog", "preflight"}
    repository = {"repositoryLocationName": LOCATION, "repositoryName": "__repository__"}
    schedule = server.ask(
        "query ($of: ScheduleSelector!) { scheduleOrError(scheduleSelector: $of) { ... on Schedule {"
        " cronSchedule executionTimezone scheduleState { status } } } }",
        of=repository | {"scheduleName": "session_cleanup_daily"},
    )["scheduleOrError"]
    assert schedule == {
        "cronSchedule": "0 4 * * *",
        "executionTimezone": "UTC",
        "scheduleState": {"status": "RUNNING"},
    }


def sensor_ticks(server: Webserver) -> list[dict[str, Any]]:
    state = server.ask(
        "query ($of: SensorSelector!) { sensorOrError(sensorSelector: $of) { ... on Sensor { sensorState {"
        " status ticks(limit: 20) { status skipReason runIds } } } } }",
        of={
            "repositoryLocationName": LOCATION,
            "repositoryName": "__repository__",
            "sensorName": "session_cleanup_gate",
        },
    )["sensorOrError"]["sensorState"]
    assert state["status"] == "RUNNING"
    return list(state["ticks"])


def assert_the_sensor_waits_for_message_cleanup(server: Webserver) -> None:
    skipped = until(
        "the sensor's first tick", lambda: [tick for tick in sensor_ticks(server) if tick["status"] == "SKIPPED"]
    )
    assert skipped[0]["skipReason"].startswith("No trace of message cleanup for ")


def assert_a_launched_run_cleans_what_was_promised(job: Job, app: App) -> None:
    promised = expected(app, app.execute("select now()").fetchall()[0][0])
    run = job.ended(job.launch())
    assert (run["status"], run["tags"]["cleanup/outcome"]) == ("SUCCESS", "success")
    assert snapshot(app) == promised
    told = job.told(run["runId"], "materialization")
    assert {key: numbers["rows_affected"] for key, numbers in told.items()} == {
        "after_hours/sessions": 1000,
        "after_hours/declines": 1000,
        "after_hours/device_fingerprints": 400,
        "after_hours/profiles": 200,
        "after_hours/preferences": 200,
    }


def closed(app: App) -> int:
    ((rows,),) = app.execute("select count(*) from after_hours_sessions where ended_at is not null").fetchall()
    return int(rows)


def assert_a_terminated_run_stops_with_true_counts(job: Job, app: App) -> None:
    reopen(app)
    run_id = job.launch(NEVER_ENDING)
    until("it has closed some", lambda: closed(app))
    job.terminate(run_id)
    run = job.ended(run_id)
    assert (run["status"], run["tags"]["cleanup/outcome"]) == ("CANCELED", "interrupted")
    told = job.told(run_id, "observation")["after_hours/sessions"]
    assert told["rows_affected"] == closed(app)
    assert not job.told(run_id, "materialization")


def reopen(app: App) -> None:
    """Make every session that nobody else of its user's shadows an open one that has expired."""
    app.execute(
        "update after_hours_sessions set ended_at = null, expires_at = now() - interval '1 hour'"
        " where id in (select distinct on (user_id) id from after_hours_sessions order by user_id, ended_at)"
    )
    app.execute("delete from after_hours_sessions where ended_at is not null")


def assert_after_a_killed_worker_the_next_run_starts_by_itself(job: Job, app: App) -> None:
    reopen(app)
    run_id = job.launch(NEVER_ENDING)
    until("it has closed some", lambda: closed(app))
    (pid,) = set(re.findall(r"\(pid: (\d+)\)", job.said(run_id)))
    os.kill(int(pid), signal.SIGKILL)
    assert job.ended(run_id)["status"] == "FAILURE"
    before = closed(app)
    (again,) = until(
        "the run is started again",
        lambda: [run for run in job.runs() if run["tags"].get("dagster/parent_run_id") == run_id],
    )
    until("it goes on", lambda: closed(app) > before)
    job.terminate(again["runId"])
    assert job.ended(again["runId"])["tags"]["cleanup/outcome"] == "interrupted"


def assert_reported_message_cleanup_starts_the_days_run(job: Job, app: App) -> None:
    assert not [run for run in job.runs() if "cleanup/day" in run["tags"]]
    assert job.server.post("/report_asset_materialization/chat_service/message_cleanup", {}) == {}
    (run,) = until("the day's run starts", lambda: [run for run in job.runs() if "cleanup/day" in run["tags"]])
    assert run["tags"]["cleanup/trigger"] == "sensor"
    run = job.ended(run["runId"])
    assert (run["status"], run["tags"]["cleanup/outcome"]) == ("SUCCESS", "success"), job.said(run["runId"])
    told = job.told(run["runId"], "materialization")
    assert [key for key, metadata in told.items() if "summary" in metadata] == ["after_hours/preferences"]
    ((open_,),) = app.execute(
        "select count(*) from after_hours_sessions where ended_at is null and expires_at < now()"
    ).fetchall()
    assert open_ == 0
    until(
        "the sensor says that the day is done",
        lambda: [
            tick for tick in sensor_ticks(job.server) if (tick["skipReason"] or "").startswith("Today's run ended well")
        ],
    )
