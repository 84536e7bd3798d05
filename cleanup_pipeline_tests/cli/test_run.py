import getpass
import json
import platform
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from logging import INFO
from pathlib import Path
from typing import Any

import psycopg
import pytest
from dagster import DagsterInstance, EventLogEntry
from psycopg import Connection

from cleanup_pipeline.cli import run as run_module
from cleanup_pipeline.cli.execution import Observed, _is_recorded_in_time, _record_as_failed
from cleanup_pipeline.postgres import Database, Session
from cleanup_pipeline.sweep import lock, reader
from cleanup_pipeline.sweep.result import Progress
from cleanup_pipeline_tests.cli.conftest import ROOT, Ended, ended, start
from cleanup_pipeline_tests.databases import name_of
from cleanup_pipeline_tests.gate.storage import add_run
from cleanup_pipeline_tests.oracle import expected, snapshot

Cli = Callable[..., Ended]

RULES = ["expired_sessions", "old_declines", "orphaned_fingerprints", "orphaned_profiles", "orphaned_preferences"]
DUE = dict(zip(RULES, (1000, 1000, 400, 200, 200), strict=True))


def test_a_run_does_what_the_promises_say_and_tells_it_as_json(cli: Cli, planted: Connection) -> None:
    before = snapshot(planted)
    as_of = datetime.now(UTC) - timedelta(seconds=1)
    promised = expected(planted, as_of)

    done = cli("run", "--full-speed", "--json", "--as-of", as_of.isoformat())

    assert done.code == 0
    assert snapshot(planted) == promised != before
    told = done.json
    assert list(told) == ["run_id", "as_of", "status", "rules"]
    assert re.fullmatch(r"[0-9a-f-]{36}", told["run_id"])
    assert datetime.fromisoformat(told["as_of"]) == as_of
    assert told["status"] == "success"
    assert list(told["rules"]) == RULES
    for rule in told["rules"].values():
        assert list(rule) == [
            "status",
            "affected",
            "remaining",
            "batches",
            "duration_s",
            "longest_batch_ms",
            "rows_per_second",
            "access",
            "error",
        ]
        assert (rule["status"], rule["remaining"], rule["error"]) == ("success", 0, None)
    assert {name: rule["affected"] for name, rule in told["rules"].items()} == DUE


def test_a_second_run_finds_nothing(cli: Cli, planted: Connection) -> None:
    as_of = datetime.now(UTC).isoformat()
    cli("run", "--full-speed", "--as-of", as_of)
    after = snapshot(planted)
    again = cli("run", "--full-speed", "--json", "--as-of", as_of)
    assert again.code == 0
    assert [rule["affected"] for rule in again.rules.values()] == [0, 0, 0, 0, 0]
    assert snapshot(planted) == after


def test_only_selected_rules_run_in_the_rules_order(cli: Cli, planted: Connection) -> None:
    done = cli("run", "--json", "--full-speed", "--rule", "orphaned_profiles", "--rule", "old_declines")
    assert done.code == 0
    assert list(done.rules) == ["old_declines", "orphaned_profiles"]
    assert planted.execute("select count(*) from device_fingerprints").fetchone() == (2000,)


@pytest.mark.usefixtures("planted")
def test_max_rows_is_strict_over_the_whole_run_in_the_rules_order(cli: Cli) -> None:
    done = cli("run", "--json", "--full-speed", "--max-rows", "1300")
    assert done.code == 0
    assert [rule["affected"] for rule in done.rules.values()] == [1000, 300, 0, 0, 0]
    assert [rule["remaining"] for rule in done.rules.values()] == [0, 700, 400, 200, 200]


def test_retention_days_is_for_declines(cli: Cli, app: Connection) -> None:
    app.execute(
        "insert into users (id, provider, created_at) select 'b' || i, 'apple', now() from generate_series(0, 9) as i"
    )
    app.execute(
        """
        insert into after_hours_sessions (id, user_id, started_at, expires_at, created_at, latitude, longitude,
            fuzzed_latitude, fuzzed_longitude)
        values (md5('s')::uuid, 'b0', now(), now() + interval '1 hour', now(), 0, 0, 0, 0)
        """
    )
    app.execute(
        """
        insert into after_hours_declines
            (id, session_id, user_id, declined_user_id, created_at, decline_count, first_declined_at, last_session_id)
        select gen_random_uuid(), md5('s')::uuid, 'b0', 'b' || i, now() - i * interval '1 day' - interval '1 minute', 1,
            now(), md5('s')::uuid
        from generate_series(0, 9) as i
        """
    )
    kept = "select count(*) from after_hours_declines"
    assert cli("run", "--retention-days", "9", "--rule", "old_declines").code == 0
    assert app.execute(kept).fetchone() == (9,)
    assert cli("run", "--retention-days", "2").code == 0
    assert app.execute(kept).fetchone() == (2,)


def test_a_dry_run_is_the_plan_and_writes_nothing(cli: Cli, planted: Connection) -> None:
    before = snapshot(planted)
    as_of = datetime.now(UTC).isoformat()
    plan = cli("plan", "--json", "--as-of", as_of, "--retention-days", "30")
    dry = cli("run", "--dry-run", "--json", "--as-of", as_of, "--retention-days", "30")
    assert plan.code == dry.code == 0
    assert plan.json == dry.json
    assert plan.json["run_id"] is None
    assert list(plan.rules) == RULES
    for rule in plan.rules.values():
        assert {"status", "candidates", "undated", "access", "error"} <= set(rule)
    assert plan.rules["expired_sessions"]["candidates"] == 1000
    assert plan.rules["old_declines"]["candidates"] < 1000
    assert snapshot(planted) == before


def test_a_plan_and_a_run_as_of_one_instant_agree(cli: Cli, planted: Connection) -> None:
    as_of = planted.execute("select (now() - interval '2 hours')::text").fetchall()[0][0]
    plan = cli("plan", "--json", "--as-of", as_of)
    done = cli("run", "--json", "--full-speed", "--as-of", as_of)
    assert {name: rule["candidates"] for name, rule in plan.rules.items()} == {
        name: rule["affected"] for name, rule in done.rules.items()
    }


def test_a_row_that_can_not_be_changed_is_a_failure_and_the_rest_is_done(cli: Cli, planted: Connection) -> None:
    planted.execute("create table reports (decline_id uuid references after_hours_declines)")
    planted.execute("insert into reports select id from after_hours_declines order by created_at limit 1")
    done = cli("run", "--json", "--full-speed")
    assert done.code == 1
    assert done.json["status"] == "failed"
    assert done.rules["old_declines"]["affected"] == 999
    assert done.rules["old_declines"]["remaining"] == 1
    assert "reports" in done.rules["old_declines"]["error"]
    assert "old_declines failed" in done.err
    assert {name: rule["affected"] for name, rule in done.rules.items()} == DUE | {"old_declines": 999}


def test_a_refused_rule_touches_nothing_and_the_others_run(cli: Cli, planted: Connection) -> None:
    planted.execute("truncate users cascade")
    for command, *options in (("run", "--full-speed"), ("plan",)):
        done = cli(command, "--json", *options)
        assert done.code == 3
        assert done.json["status"] == "refused"
        assert [rule["status"] for rule in done.rules.values()] == ["success"] * 3 + ["refused"] * 2
        assert "public.users" in done.rules["orphaned_profiles"]["error"]
        assert "orphaned_profiles was refused" in done.err
    assert planted.execute("select count(*) from after_hours_profiles").fetchone() == (2000,)


def test_the_fuse_is_lifted_for_one_run_by_a_share_and_a_reason(cli: Cli, planted: Connection) -> None:
    planted.execute("delete from after_hours_sessions where ctid < '(20,0)'")
    only = ("--json", "--full-speed", "--rule", "orphaned_fingerprints")
    assert cli("run", *only).code == 3
    assert cli("run", *only, "--allow-share", "1", "--reason", "sessions were removed by hand").code == 0


@pytest.mark.usefixtures("planted")
def test_a_rule_that_another_sweep_holds_is_skipped(cli: Cli, database: str) -> None:
    with Session(Database.parse(database), "cleanup_pipeline somebody") as other:
        assert lock.hold(other, "old_declines")
        done = cli("run", "--json", "--full-speed")
    assert done.code == 4
    assert done.json["status"] == "skipped"
    assert done.rules["old_declines"]["status"] == "skipped"
    assert done.rules["old_declines"]["affected"] == 0
    assert "somebody" in done.rules["old_declines"]["error"]
    assert done.rules["orphaned_profiles"]["status"] == "success"
    assert "old_declines was skipped" in done.err


def log(instance: DagsterInstance, run_id: str, message: str) -> None:
    """Have a step of the run log a message."""
    entry = EventLogEntry(None, INFO, message, run_id, datetime.now(UTC).timestamp())  # type: ignore[no-untyped-call]  # Dagster's
    instance.handle_new_event(entry)


def test_a_run_that_was_recorded_but_could_not_begin_ends_as_failed_and_one_that_ended_stays(
    instance: DagsterInstance,
) -> None:
    begun, ended_well = add_run(instance), add_run(instance, events={"success": "04:00"})
    for run_id in (begun, ended_well):
        assert _is_recorded_in_time(_record_as_failed, instance, run_id)
    assert [instance.get_run_by_id(run_id).status.value for run_id in (begun, ended_well)] == ["FAILURE", "SUCCESS"]  # type: ignore[union-attr]  # both were added


@pytest.mark.usefixtures("planted")
def test_a_second_run_says_who_started_the_first_and_how_far_it_is(
    cli: Cli, database: str, instance: DagsterInstance, dagster_home: Path
) -> None:
    first = add_run(instance, tagged={"cleanup/by": "alice@bastion", "cleanup/reason": "the disk is full"})
    far = "old_declines: windows, 40% done, 400 rows, 80 rows/s, about 8 s left"
    for message in (far, "something else"):
        log(instance, first, message)
    with Session(Database.parse(database), f"cleanup_pipeline {first}") as other:
        assert lock.hold(other, "old_declines")
        done = cli(
            "run", "--rule", "old_declines", DAGSTER_HOME=str(dagster_home), CLEANUP_UI_URL="https://dagster.internal/"
        )
    assert done.code == 4
    assert (
        f"The run that is on is {first}, started by: alice@bastion (the disk is full). How far it is: {far}. "
        f"https://dagster.internal/runs/{first}" in done.err
    )
    assert done.err.startswith("Watch it: https://dagster.internal/runs/")


def test_status_says_who_started_a_run_that_is_on_why_and_how_far_it_is(
    cli: Cli, instance: DagsterInstance, dagster_home: Path
) -> None:
    tagged = {"cleanup/trigger": "manual", "cleanup/by": "alice@bastion", "cleanup/reason": "the disk is full"}
    run_id = add_run(instance, tagged=tagged)
    far = "old_declines: windows, 40% done, 400 rows, 80 rows/s, about 8 s left"
    log(instance, run_id, far)
    status = cli("status", DAGSTER_HOME=str(dagster_home), CLEANUP_UI_URL="https://dagster.internal")
    assert "alice@bastion: the disk is full" in status.out
    assert (
        f"Recorded as queued: {run_id}, started by: alice@bastion (the disk is full). How far it is: {far}. "
        f"https://dagster.internal/runs/{run_id}\n" in status.out
    )


@pytest.mark.parametrize(
    ("missing", "command"),
    [
        ("rich", ["run", "--yes"]),
        ("rich", ["status"]),
        ("psycopg", ["plan", "--json"]),
        ("psycopg", ["dev"]),
        ("click", ["--help"]),
    ],
)
def test_where_a_package_is_missing_the_command_does_not_begin_and_names_it(
    database: str, tmp_path: Path, missing: str, command: list[str]
) -> None:
    (tmp_path / f"{missing}.py").write_text(f"raise ModuleNotFoundError('No module', name={missing!r})")
    done = ended(start(command, {"CLEANUP_DATABASE_URL": database, "PYTHONPATH": f"{tmp_path}:{ROOT}"}))
    assert (done.code, done.out) == (2, "")
    assert f"A package can't be imported ({missing}): install cleanup-pipeline again" in done.err


def test_where_dagsters_storage_is_missing_as_a_package_that_is_named(
    database: str, dagster_home: Path, tmp_path: Path
) -> None:
    (dagster_home / "dagster.yaml").write_text(json.dumps({"storage": {"postgres": {"postgres_url": database}}}))
    (tmp_path / "dagster_postgres.py").write_text("raise ModuleNotFoundError('No module', name='dagster_postgres')")
    variables = {"CLEANUP_DATABASE_URL": database, "DAGSTER_HOME": str(dagster_home)}
    done = ended(start(["run"], {**variables, "PYTHONPATH": f"{tmp_path}:{ROOT}"}))
    assert done.code == 2
    assert "A package can't be imported (dagster_postgres)" in done.err


@pytest.mark.usefixtures("planted")
def test_what_a_person_types_is_kept_from_terminals_and_from_the_storages_index(
    cli: Cli, database: str, dagster_home: Path
) -> None:
    home = {"DAGSTER_HOME": str(dagster_home)}
    odd = {"CLEANUP_DATABASE_URL": database, "LOGNAME": "b\udcffb\x1b[31m", **home}
    done = ended(start(["run", "--rule", "old_declines", "--reason", "a\x1b]0;b\x07\u202e c"], odd))
    assert done.code == 0
    status = cli("status", **home)
    mark = "\N{REPLACEMENT CHARACTER}"
    assert f"b{mark}b{mark}[31m@{platform.node()}: a{mark}]0;b{mark}{mark} c" in status.out
    long = cli("run", "--rule", "old_declines", "--reason", "x" * 501, **home)
    assert (long.code, long.out) == (2, "")
    assert "--reason has more than 500 characters" in long.err
    assert cli("run", "--rule", "old_declines", "--reason", "\N{CAT FACE}" * 500, **home).code == 0


@pytest.mark.usefixtures("planted")
def test_a_run_is_recorded_as_manual_with_its_reason(cli: Cli, instance: DagsterInstance, dagster_home: Any) -> None:
    done = cli(
        "run",
        "--json",
        "--full-speed",
        "--rule",
        "old_declines",
        "--allow-share",
        "0.8",
        "--reason",
        "too many",
        DAGSTER_HOME=str(dagster_home),
    )
    assert done.code == 0
    assert "unrecorded" not in done.err
    run = instance.get_run_by_id(done.json["run_id"])
    assert run is not None
    assert run.job_name == "session_cleanup"
    assert run.status.value == "SUCCESS"
    wanted = {
        "cleanup/trigger": "manual",
        "cleanup/by": f"{getpass.getuser()}@{platform.node()}",
        "cleanup/reason": "too many",
        "cleanup/allow_share": "0.8",
        "cleanup/outcome": "success",
        ".dagster/repository": "__repository__@cleanup_pipeline",
    }
    assert wanted.items() <= run.tags.items()
    assert "cleanup/day" not in run.tags


def test_without_a_home_a_run_goes_unrecorded_and_says_so(cli: Cli) -> None:
    done = cli("run", "--json", "--rule", "old_declines")
    assert done.code == 0
    assert "The run goes unrecorded: DAGSTER_HOME is not set. Set it to the folder of dagster.yaml" in done.err
    assert done.json["run_id"]


def test_no_record_runs_while_the_storage_is_down(cli: Cli, dagster_home: Any) -> None:
    (dagster_home / "dagster.yaml").write_text(
        json.dumps({"storage": {"postgres": {"postgres_url": {"env": "DAGSTER_POSTGRES_URL"}}}})
    )
    down = {"DAGSTER_HOME": str(dagster_home), "DAGSTER_POSTGRES_URL": "postgresql://u:hidden@127.0.0.1:1/dagster"}
    refused = cli("run", "--rule", "old_declines", "--json", **down)
    assert refused.code == 2
    assert refused.out == ""
    assert "127.0.0.1:1/dagster" in refused.err
    assert "--no-record" in refused.err
    assert "hidden" not in refused.err
    assert cli("run", "--rule", "old_declines", "--json", "--no-record", **down).code == 0


def test_off_a_terminal_many_rows_need_a_yes(cli: Cli, planted: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    before = snapshot(planted)
    monkeypatch.setattr(run_module, "MANY_ROWS", 2000)
    refused = cli("run", "--json", "--full-speed")
    assert refused.code == 2
    assert refused.out == ""
    assert "--yes" in refused.err
    assert snapshot(planted) == before
    assert cli("run", "--json", "--full-speed", "--rule", "old_declines").code == 0
    assert cli("run", "--json", "--full-speed", "--max-rows", "300").code == 0
    assert cli("run", "--json", "--full-speed", "--yes").code == 0


def test_a_table_that_is_locked_fails_its_rule_by_name_and_the_others_go_on(
    cli: Cli, planted: Connection, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "_PATIENCE_S", 0.3)
    with psycopg.connect(database) as migration:
        migration.execute("lock table after_hours_declines")
        done = cli("run", "--json", "--full-speed")
    assert done.code == 1
    assert "locked now: public.after_hours_declines." in done.rules["old_declines"]["error"]
    assert {name: rule["affected"] for name, rule in done.rules.items()} == DUE | {"old_declines": 0}
    assert planted.execute("select count(*) from after_hours_declines").fetchone() == (2000,)


@pytest.mark.usefixtures("planted")
def test_the_summary_for_a_person_names_every_rule_and_count(cli: Cli, dagster_home: Path) -> None:
    ui = "https://dagster.example.com/"
    done = cli("run", "--full-speed", DAGSTER_HOME=str(dagster_home), CLEANUP_UI_URL=ui)
    assert done.code == 0
    for name, rows in DUE.items():
        assert re.search(rf"^{name} +success +{rows:,} ", done.out, re.MULTILINE)
    assert re.search(r"https://dagster\.example\.com/runs/[0-9a-f-]{36}$", done.out, re.MULTILINE)
    assert "\x1b" not in done.out + done.err
    assert "…" not in done.out
    unrecorded = cli("run", "--no-record", "--rule", "old_declines", CLEANUP_UI_URL=ui)
    assert ui not in unrecorded.out + unrecorded.err


def test_a_step_that_dies_is_a_failure_told_without_its_text(
    cli: Cli, planted: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(_: Observed, progress: Progress) -> None:
        if progress.rule == "old_declines":
            raise RuntimeError("a row's data")

    monkeypatch.setattr(Observed, "progress", die)
    done = cli("run", "--json", "--full-speed")
    assert done.code == 1
    assert done.rules["old_declines"]["status"] == "failed"
    assert "RuntimeError" in done.rules["old_declines"]["error"]
    assert "data" not in done.out + done.err
    assert done.rules["orphaned_preferences"]["status"] == "success"
    assert planted.execute("select count(*) from after_hours_preferences").fetchone() == (1800,)


@pytest.mark.long  # Dagster tries for more than a minute before it gives up
def test_a_storage_that_goes_away_in_the_midst_of_a_run_is_told(
    cli: Cli, planted: Connection, dagster_home: Any, server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = json.loads((dagster_home / "dagster.yaml").read_text())["storage"]["postgres"]["postgres_url"]

    def drop(_: Observed, progress: Progress) -> None:
        if progress.rule == "old_declines":
            with psycopg.connect(server_url, autocommit=True) as connection:
                connection.execute(f"drop database if exists {name_of(url)} with (force)")

    monkeypatch.setattr(Observed, "progress", drop)
    done = cli("run", "--json", "--full-speed", DAGSTER_HOME=str(dagster_home))
    assert done.code == 1
    assert done.rules["expired_sessions"]["status"] == "success"
    assert done.rules["orphaned_preferences"]["status"] == "failed"
    assert done.rules["orphaned_preferences"]["affected"] == 0
    assert planted.execute("select count(*) from after_hours_preferences").fetchone() == (2000,)
