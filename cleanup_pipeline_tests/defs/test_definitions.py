"""What Dagster sees when it loads the code location."""

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import dagster as dg
import yaml

from cleanup_pipeline.definitions import defs
from cleanup_pipeline.defs.assets import ASSETS, MESSAGE_CLEANUP
from cleanup_pipeline.defs.story import source_link
from cleanup_pipeline.rules import RULES

CHECKOUT = Path(__file__).parents[2]
JOB = defs.resolve_job_def("session_cleanup")


def ops_of_the_job() -> list[dg.OpDefinition]:
    return [node.definition for node in JOB.graph.nodes if isinstance(node.definition, dg.OpDefinition)]


def test_the_code_location_loads_with_no_database_and_no_variable_and_without_a_warning_of_dagsters() -> None:
    environment = {name: value for name, value in os.environ.items() if "CLEANUP" not in name and "DAGSTER" not in name}
    loaded = subprocess.run(
        [
            sys.executable,
            "-c",
            "import warnings, dagster\n"
            "for kind in ('BetaWarning', 'PreviewWarning', 'SupersessionWarning'):\n"
            "    warnings.simplefilter('error', getattr(dagster, kind))\n"
            "from cleanup_pipeline.definitions import defs\n"
            "dagster.Definitions.validate_loadable(defs)\n",
        ],
        env=environment | {"PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (loaded.returncode, loaded.stderr) == (0, "")


def test_the_job_has_exactly_five_ops_with_one_asset_each_directly_below_message_cleanup() -> None:
    assert {op.name for op in ops_of_the_job()} == {rule.op for rule in RULES}
    specs = [spec for asset in ASSETS for spec in asset.specs]
    assert [spec.key.path for spec in specs] == [list(rule.asset) for rule in RULES]
    assert {spec.group_name for spec in specs} == {"after_hours"}
    assert all([dep.asset_key for dep in spec.deps] == [MESSAGE_CLEANUP.key] for spec in specs)
    assert MESSAGE_CLEANUP.key.path == ["chat_service", "message_cleanup"]


def test_the_graph_tells_of_each_asset_what_is_cleaned_what_never_whose_it_is_and_when_it_is_stale() -> None:
    for asset, rule in zip(ASSETS, RULES, strict=True):
        (spec,) = asset.specs
        described = spec.description or ""
        assert rule.about in described
        assert f"`{rule.table}`" in described
        assert "**Never touched:**" in described
        assert "%" not in described
        assert (list(spec.owners), spec.kinds) == (["team:profile-service"], {"postgres"})
        assert spec.tags["cleanup/rule"] == rule.name
        assert spec.freshness_policy == dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=26))
        assert {check.name for check in asset.check_specs} == {"backlog", "age", "preflight"}


def test_each_rule_links_to_its_lines_in_the_repository_and_without_an_address_to_nothing() -> None:
    lines = (CHECKOUT / "cleanup_pipeline" / "rules.py").read_text().splitlines()
    for rule in RULES:
        link = source_link(rule, "https://git.example/after-hours/cleanup.git/")
        address, _, line = (link or "").partition("#L")
        assert address == "https://git.example/after-hours/cleanup/blob/HEAD/cleanup_pipeline/rules.py"
        assert lines[int(line) - 1].endswith("= Rule(")
        assert f'"{rule.name}"' in lines[int(line)]
        assert source_link(rule, None) is None


def test_the_ops_run_in_one_process_also_when_everything_is_materialized() -> None:
    implicit = defs.resolve_implicit_global_asset_job_def()
    assert implicit.executor_def.name == JOB.executor_def.name == "in_process"


def test_schedule_and_sensor_run_by_default_and_in_utc() -> None:
    schedule = defs.resolve_schedule_def("session_cleanup_daily")
    assert schedule.cron_schedule == "0 4 * * *"
    assert schedule.execution_timezone == "UTC"
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING
    sensor = defs.resolve_sensor_def("session_cleanup_gate")
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING


def test_no_op_has_a_retry_policy_since_dagster_would_retry_what_was_interrupted() -> None:
    assert all(op.retry_policy is None for op in ops_of_the_job())


def test_the_instance_keeps_cleanup_runs_apart_and_retries_crashes_only() -> None:
    instance = yaml.safe_load((CHECKOUT / "dagster.yaml").read_text())
    assert instance["storage"] == {"postgres": {"postgres_url": {"env": "DAGSTER_POSTGRES_URL"}}}
    assert instance["concurrency"]["pools"] == {"granularity": "run", "default_limit": 1}
    assert {op.pool for op in ops_of_the_job()} == {"session_cleanup"}
    assert instance["run_retries"]["retry_on_asset_or_op_failure"] is False
    assert instance["run_monitoring"]["max_runtime_seconds"] > 0
    assert instance["telemetry"] == {"enabled": False}


def test_the_workspace_names_the_location_by_which_runs_from_the_command_line_are_filed() -> None:
    workspace = yaml.safe_load((CHECKOUT / "workspace.yaml").read_text())
    assert workspace["load_from"] == [
        {"python_module": {"module_name": "cleanup_pipeline.definitions", "location_name": "cleanup_pipeline"}}
    ]
