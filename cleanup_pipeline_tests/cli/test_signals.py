"""Interrupts at every stage, as a process meets them. A stage interrupts itself, so that no test depends on timing."""

import os
import pty
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from dagster import DagsterInstance
from psycopg import Connection

from cleanup_pipeline.cli.report import NOT_STARTED
from cleanup_pipeline_tests.cli.conftest import Ended, ended, environment, start

RULES = ["expired_sessions", "old_declines", "orphaned_fingerprints", "orphaned_profiles", "orphaned_preferences"]
DECLINES = "select count(*) from after_hours_declines"

STRUCK = """
import os, signal, time
def struck(function, number=signal.SIGTERM):
    def call(*args, **options):
        os.kill(os.getpid(), number)
        time.sleep(0.3)
        return function(*args, **options)
    return call
"""
BEFORE_ANYTHING = {
    "as soon as its own code runs": """
import cleanup_pipeline.cli.signals as m
m.Interrupts.take = lambda self, take=m.Interrupts.take: (take(self), os.kill(os.getpid(), signal.SIGTERM))
""",
    "importing the command": "import cleanup_pipeline.cli.commands as m; m.import_module = struck(m.import_module)",
    "importing Dagster": """
import sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "dagster":
            sys.meta_path.remove(self)
            struck(len)(())
sys.meta_path.insert(0, Finder())
""",
    "looking for the storage": "import cleanup_pipeline.cli.run as m; m.find_storage = struck(m.find_storage)",
    "reaching the database": "import cleanup_pipeline.cli.run as m; m.choose_as_of = struck(m.choose_as_of)",
    "opening Dagster's instance": """
import cleanup_pipeline.cli.storage as m
m.Storage.instance = struck(m.Storage.instance)
""",
}
IN_THE_MIDST = {
    "preflight": "import cleanup_pipeline.sweep.preflight as m; m.inspect = struck(m.inspect)",
    "judging": "import cleanup_pipeline.sweep.judgement as m; m.judge = struck(m.judge)",
    "the windows": "import cleanup_pipeline.cli.execution as m; m.Observed.progress = struck(m.Observed.progress)",
    "between two rules": """
import cleanup_pipeline.cli.execution as m
m.Observed.result = struck(m.Observed.result)
""",
}
WINDOWS = """
import cleanup_pipeline.cli.execution as m
m.Observed.progress = struck(m.Observed.progress, signal.SIGINT)
"""
LAST_LINE = """
import atexit
atexit.register(lambda: (os.kill(os.getpid(), signal.SIGTERM), time.sleep(0.2)))
import cleanup_pipeline.cli.output as m
m.Stream.write = lambda self, text, write=m.Stream.write: (
    os.kill(os.getpid(), signal.SIGTERM) if text.startswith("{") else None, write(self, text))
"""


def run(database: str, stage: str, *options: str, home: Path | None = None, command: str = "run") -> Ended:
    variables = {"CLEANUP_DATABASE_URL": database, "DAGSTER_HOME": None if home is None else str(home)}
    return ended(start([command, "--json", *options], variables, STRUCK + stage))


@pytest.mark.parametrize("stage", BEFORE_ANYTHING)
def test_interrupted_before_anything_is_touched_a_run_says_so(stage: str, database: str, planted: Connection) -> None:
    done = run(database, BEFORE_ANYTHING[stage])
    assert done.code == 130
    assert done.json["status"] == "interrupted"
    assert done.json["run_id"]
    assert list(done.rules) == RULES
    for rule in done.rules.values():
        assert (rule["status"], rule["affected"], rule["error"]) == ("interrupted", 0, NOT_STARTED)
    assert "Interrupted. Nothing was changed." in done.err
    assert planted.execute(DECLINES).fetchone() == (2000,)


@pytest.mark.parametrize("stage", IN_THE_MIDST)
def test_interrupted_in_the_midst_of_it_a_run_tells_what_was_committed(
    stage: str, database: str, planted: Connection
) -> None:
    done = run(database, IN_THE_MIDST[stage])
    assert done.code == 130
    assert done.json["status"] == "interrupted"
    assert list(done.rules) == RULES
    statuses = [rule["status"] for rule in done.rules.values()]
    assert statuses == sorted(statuses, key="success interrupted".index)
    assert done.rules["orphaned_preferences"]["error"] == NOT_STARTED
    assert planted.execute(DECLINES).fetchone() == (2000 - done.rules["old_declines"]["affected"],)
    closed = planted.execute(
        "select count(*) from after_hours_sessions where ended_at is null and expires_at < now()"
    ).fetchone()
    assert closed == (1000 - done.rules["expired_sessions"]["affected"],)
    assert "Interrupted." in done.err
    ours = "application_name like 'cleanup_pipeline%' and datname = current_database()"
    assert planted.execute(f"select count(*) from pg_stat_activity where {ours}").fetchone() == (0,)


def test_an_interrupted_run_is_recorded_as_canceled(
    database: str, planted: Connection, instance: DagsterInstance, dagster_home: Path
) -> None:
    done = run(database, WINDOWS, "--rule", "old_declines", home=dagster_home)
    assert done.code == 130
    run_ = instance.get_run_by_id(done.json["run_id"])
    assert run_ is not None
    assert run_.status.value == "CANCELED"
    assert run_.tags["cleanup/outcome"] == "interrupted"
    assert 0 < done.rules["old_declines"]["affected"] < 1000
    assert planted.execute(DECLINES).fetchone() == (2000 - done.rules["old_declines"]["affected"],)


@pytest.mark.usefixtures("planted")
def test_a_signal_while_the_json_is_written_or_after_changes_nothing_any_more(database: str) -> None:
    done = run(database, LAST_LINE, "--rule", "old_declines")
    assert done.code == 0
    assert done.json["status"] == "success"
    assert done.rules["old_declines"]["affected"] == 1000


HANGS = """
import sys
import cleanup_pipeline.cli.execution as m
def progress(self, progress):
    self.latest[progress.rule] = progress
    print("HANGS", file=sys.stderr, flush=True)
    time.sleep(60)
m.Observed.progress = progress
"""


def test_a_second_ctrl_c_ends_it_at_once_and_the_run_is_not_left_as_running(
    database: str, planted: Connection, instance: DagsterInstance, dagster_home: Path
) -> None:
    variables = {"CLEANUP_DATABASE_URL": database, "DAGSTER_HOME": str(dagster_home)}
    process = start(["run", "--json", "--rule", "old_declines"], variables, STRUCK + HANGS)
    wait_for(process, "HANGS")
    process.send_signal(signal.SIGINT)
    wait_for(process, "Stopping")
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    done = ended(process)
    assert time.monotonic() - began < 5
    assert done.code == 130
    assert done.json["status"] == "interrupted"
    assert planted.execute(DECLINES).fetchone() == (2000 - done.rules["old_declines"]["affected"],)
    run_ = instance.get_run_by_id(done.json["run_id"])
    assert run_ is not None
    assert run_.status.value == "CANCELED"


@pytest.mark.usefixtures("planted")
def test_where_the_storage_does_not_take_the_end_of_a_run_a_second_ctrl_c_says_so(
    database: str, dagster_home: Path
) -> None:
    silent = "m._record_as_canceled = lambda *_: time.sleep(60)\n"
    variables = {"CLEANUP_DATABASE_URL": database, "DAGSTER_HOME": str(dagster_home)}
    process = start(["run", "--json", "--rule", "old_declines"], variables, STRUCK + HANGS + silent)
    wait_for(process, "HANGS")
    process.send_signal(signal.SIGINT)
    wait_for(process, "Stopping")
    process.send_signal(signal.SIGINT)
    done = ended(process)
    assert done.code == 130
    assert f"end of run {done.json['run_id']}: it is listed as running until" in done.err


@pytest.mark.usefixtures("planted")
def test_ctrl_c_typed_at_a_terminal_stops_it_and_nothing_of_dagsters_is_seen(database: str, dagster_home: Path) -> None:
    works = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
import cleanup_pipeline.cli.execution as m
def progress(self, progress, show=m.Observed.progress):
    show(self, progress)
    print("AT WORK", file=sys.stderr, flush=True)
    self.stop.wait(60)
m.Observed.progress = progress
"""
    script = f"{works}\nfrom cleanup_pipeline.cli import main\nmain()"
    variables = {"CLEANUP_DATABASE_URL": database, "DAGSTER_HOME": str(dagster_home), "TERM": "xterm"}
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", script, "run", "--rule", "old_declines"],
        env=environment(variables),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,  # and there the terminal is its own, as a shell has it
    )
    os.close(theirs)
    shown, typed = b"", False
    with suppress(OSError):  # the terminal's other end is closed
        while part := os.read(ours, 65536):
            shown += part
            if b"AT WORK" in shown and not typed:
                typed = os.write(ours, b"\x03") == 1
    os.close(ours)
    assert process.wait(60) == 130
    assert b"Interrupted." in shown
    assert b"Traceback" not in shown


def wait_for(process: subprocess.Popen[str], word: str) -> None:
    assert process.stderr is not None
    while word not in (line := process.stderr.readline()):
        assert line, "it has ended"


@pytest.mark.usefixtures("planted")
def test_an_interrupted_plan_tells_what_it_knows(database: str) -> None:
    stage = """
import cleanup_pipeline.cli.plan as m
m.plan = lambda rule, *args, plan=m.plan: (struck(plan) if rule.name == "orphaned_fingerprints" else plan)(rule, *args)
"""
    done = run(database, stage, command="plan")
    assert done.code == 130
    assert [rule["candidates"] for rule in done.rules.values()] == [1000, 1000, None, None, None]
    assert [rule["status"] for rule in done.rules.values()] == ["success"] * 2 + ["interrupted"] * 3


def test_an_interrupted_status_says_nothing_else(database: str) -> None:
    stage = "import cleanup_pipeline.cli.status as m; m.choose_as_of = struck(m.choose_as_of)"
    done = run(database, stage, command="status")
    assert (done.code, done.out) == (130, "")
    assert "Interrupted." in done.err
