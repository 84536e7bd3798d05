from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from psycopg import Connection

from cleanup_pipeline.gate.day import utc_now
from cleanup_pipeline_tests.cli.conftest import Ended

Cli = Callable[..., Ended]


@pytest.mark.usefixtures("planted")
def test_status_tells_gate_runs_next_tick_and_backlog(cli: Cli, dagster_home: Path) -> None:
    home = str(dagster_home)
    done = cli("run", "--json", "--full-speed", "--rule", "old_declines", "--max-rows", "10", DAGSTER_HOME=home)
    status = cli("status", "--json", DAGSTER_HOME=home)
    assert status.code == 0
    told = status.json
    assert list(told) == ["gate", "paused", "next_tick", "runs", "rules"]
    assert list(told["gate"]) == ["state", "day", "reason", "signal", "signals"]
    assert told["paused"] is None
    tick = datetime.fromisoformat(told["next_tick"])
    assert (tick.hour, tick.minute, tick.utcoffset()) == (4, 0, tick.utcoffset())
    [run] = told["runs"]
    assert list(run) == ["run_id", "day", "trigger", "status", "started", "ended"]
    assert (run["run_id"], run["day"], run["trigger"], run["status"]) == (
        done.json["run_id"],
        None,
        "manual",
        "success",
    )
    assert {name: rule["candidates"] for name, rule in told["rules"].items()}["old_declines"] == 990
    text = cli("status", DAGSTER_HOME=home)
    assert text.code == 0
    assert done.json["run_id"] in text.out


@pytest.mark.parametrize(
    ("variables", "word"),
    [
        ({}, "DAGSTER_HOME is not set"),
        ({"DAGSTER_HOME": "relative"}, "relative"),
        ({"DAGSTER_HOME": "/no/such/home"}, "/no/such/home"),
        ({"CLEANUP_DATABASE_URL": None}, "CLEANUP_DATABASE_URL is not set"),
        ({"CLEANUP_DATABASE_URL": "postgresql://u:secret@127.0.0.1:1/d"}, "127.0.0.1:1/d"),
        ({"CLEANUP_GATE_DEADLINE": "late"}, "CLEANUP_GATE_DEADLINE"),
    ],
)
def test_what_status_can_not_look_at_is_told_and_no_error(
    cli: Cli, variables: dict[str, str | None], word: str
) -> None:
    status = cli("status", "--json", **variables)
    assert status.code == 0
    assert word in status.out + status.err
    assert "secret" not in status.out + status.err
    assert status.json["runs"] == []
    assert len(status.rules) == 5
    assert cli("status", **variables).code == 0


def test_what_dagsters_storage_would_tell_is_unknown_where_it_is_out_of_reach(cli: Cli) -> None:
    told, text = cli("status", "--json").json, cli("status").out
    assert (told["paused"], told["next_tick"], told["runs"]) == (None, None, [])
    assert "\nWhether it is paused is unknown.\n" in text
    assert "\nWhat runs there are is unknown.\n" in text


def test_a_malformed_variable_is_told_with_what_is_known_of_message_cleanup(cli: Cli, dagster_home: Path) -> None:
    status = cli("status", "--json", DAGSTER_HOME=str(dagster_home), CLEANUP_GATE="maybe", CLEANUP_GATE_DEADLINE="0:00")

    assert (status.code, status.json["gate"]["state"]) == (0, "held" if utc_now().hour >= 4 else "waiting")
    assert "CLEANUP_GATE is 'maybe', accepted is on or off" in status.json["gate"]["reason"]
    assert [signal["source"] for signal in status.json["gate"]["signals"]] == ["dagster_run", "materialization"]


def test_doctor_warns_of_every_malformed_variable(cli: Cli) -> None:
    told = cli("doctor", CLEANUP_GATE="maybe", CLEANUP_NIGHT_ENDS="late")

    assert told.code == 0
    assert "CLEANUP_GATE is 'maybe', accepted is on or off." in told.out
    assert "CLEANUP_NIGHT_ENDS is 'late', accepted is " in told.out


def test_doctor_says_what_to_do_and_exits_3_where_a_rule_would_be_refused(cli: Cli, planted: Connection) -> None:
    healthy = cli("doctor", "--json")
    assert healthy.code == 0
    assert {rule["status"] for rule in healthy.rules.values()} == {"success"}
    planted.execute("alter table after_hours_declines rename column created_at to made_at")
    ill = cli("doctor", "--json")
    assert ill.code == 3
    assert "old_declines would be refused" in ill.err
    [finding] = ill.rules["old_declines"]["findings"]
    assert "created_at" in finding["what"]
    assert "created_at" in cli("doctor").out
    assert cli("doctor", "--rule", "expired_sessions").code == 0
