"""What only shows in a process of its own: streams, terminals, locales, imports."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path
from threading import Event

import pytest
from psycopg import Connection

from cleanup_pipeline.cli.display import Bars
from cleanup_pipeline.cli.execution import Observed
from cleanup_pipeline.cli.options import request_for
from cleanup_pipeline.cli.output import Stream
from cleanup_pipeline.sweep.result import Progress, Result
from cleanup_pipeline_tests.cli.conftest import ended, environment, start

RULES = ["expired_sessions", "old_declines", "orphaned_fingerprints", "orphaned_profiles", "orphaned_preferences"]
COMMAND = [sys.executable, "-m", "cleanup_pipeline.cli"]


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["plan", "--rule", "unknown"], []])
def test_help_and_usage_errors_import_neither_dagster_nor_drivers(arguments: list[str]) -> None:
    look = (
        "import atexit, sys\n"
        "heavy = {'dagster', 'psycopg', 'rich', 'yaml', 'sqlalchemy'}\n"
        "atexit.register(lambda: print('HEAVY', sorted(heavy & set(sys.modules)), file=sys.stderr))"
    )
    done = ended(start(arguments, {}, look))
    assert done.code == (0 if "--help" in arguments else 2)
    assert "HEAVY []" in done.err


def test_help_leads_from_a_look_to_a_limited_run_and_cuts_nothing_off() -> None:
    shown = ended(start(["--help"], {})).out
    steps = ("cleanup-pipeline status", "cleanup-pipeline plan", "cleanup-pipeline run --max-rows")
    assert sorted(steps, key=shown.index) == list(steps)
    for name in ("CLEANUP_DATABASE_URL", "DAGSTER_HOME", "DAGSTER_POSTGRES_URL"):
        assert name in shown
    assert "..." not in shown.partition("Commands:")[2]


@pytest.mark.parametrize("case", ["success", "failed"])
def test_stdout_is_one_json_document_whatever_else_there_is_to_say(
    case: str, database: str, planted: Connection, dagster_home: Path
) -> None:
    planted.execute(
        """
        create function warn() returns trigger language plpgsql as $$
            begin raise warning 'a row'; return old; end $$;
        create trigger warn before delete on after_hours_declines for each row execute function warn();
        """
    )
    if case == "failed":
        planted.execute("create table reports (decline_id uuid references after_hours_declines)")
        planted.execute("insert into reports select id from after_hours_declines order by created_at limit 1")
    variables = {"CLEANUP_DATABASE_URL": database, "DAGSTER_HOME": str(dagster_home), "PYTHONWARNINGS": "default"}
    # What somebody prints in the midst of it is not to be found on stdout either.
    noise = """
import os
from cleanup_pipeline.cli.execution import Observed
def progress(self, progress):
    print("noise", flush=True)
    os.write(1, b"noise")
Observed.progress = progress
"""
    done = ended(start(["run", "--json", "--full-speed"], variables, noise))
    assert done.json["status"] == case
    assert done.code == {"success": 0, "failed": 1}[case]
    assert done.out.count("\n") == 1
    assert done.code == 0 or case in done.err


@pytest.mark.usefixtures("planted")
def test_what_is_piped_is_whole(database: str) -> None:
    for command in ("plan", "status"):
        done = ended(start([command], {"CLEANUP_DATABASE_URL": database, "COLUMNS": None, "FORCE_COLOR": "1"}))
        assert done.code == 0
        assert "…" not in done.out
        assert "..." not in done.out
        assert "\x1b" not in done.out
        for name, rows in zip(RULES, ("1,000", "1,000", "400", "200", "200"), strict=True):
            assert re.search(rf"^{name} .*\b{rows}\b", done.out, re.MULTILINE)


@pytest.mark.usefixtures("planted")
def test_a_reader_who_goes_away_is_no_error(database: str) -> None:
    process = subprocess.Popen(
        [*COMMAND, "plan"],
        env=environment({"CLEANUP_DATABASE_URL": database}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait(30) == 0


def test_closed_streams_and_a_full_disk_end_without_a_traceback(database: str) -> None:
    script = " ".join(COMMAND)
    variables = environment({"CLEANUP_DATABASE_URL": database})
    for redirection, code in ((">&-", 0), ("2>&-", 0), (">&- 2>&- <&-", 0), (">/dev/full", 1), ("2>/dev/full", 0)):
        done = subprocess.run(
            ["sh", "-c", f"{script} plan --json {redirection}"],
            env=variables,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (redirection, done.returncode) == (redirection, code)
        assert "Traceback" not in done.stderr


def test_an_ascii_locale_is_no_obstacle(database: str, app: Connection) -> None:
    app.execute('alter table after_hours_declines rename column created_at to "erzählt…"')
    variables = {
        "CLEANUP_DATABASE_URL": database,
        "LC_ALL": "C",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONUTF8": "0",
        "HOME": None,
    }
    for arguments in (["plan"], ["doctor"]):
        done = ended(start(arguments, variables))
        assert done.code == 3
        assert (done.out + done.err).isascii()


def test_a_reason_that_the_locale_can_not_read_is_kept_and_what_is_no_text_is_marked() -> None:
    # As Python hands the bytes of an argument over.
    assert request_for(reason="schön".encode().decode("ascii", "surrogateescape")).reason == "schön"
    assert request_for(reason=b"a \xff b".decode("utf-8", "surrogateescape")).reason == "a \N{REPLACEMENT CHARACTER} b"


@pytest.mark.parametrize(
    ("columns", "lines", "variables"),
    [
        (1, 1, {"COLUMNS": None}),
        (20, 5, {"COLUMNS": None}),
        (0, 0, {"COLUMNS": "0"}),
        (80, 24, {"TERM": "dumb"}),
        (80, 24, {"NO_COLOR": "1"}),
        (200, 50, {"COLUMNS": None}),
        (80, 24, {"COLUMNS": None, "NO_COLOR": "1"}),
    ],
)
def test_any_terminal_will_do(
    database: str, planted: Connection, columns: int, lines: int, variables: dict[str, str | None]
) -> None:
    plan = in_terminal(["plan"], columns, lines, {"TERM": "xterm", "CLEANUP_DATABASE_URL": database, **variables})
    assert "1,000" in plan
    if lines == 1 or {"COLUMNS", "NO_COLOR"} <= variables.keys():
        done = in_terminal(
            ["run", "--rule", "old_declines"],
            columns,
            lines,
            {"TERM": "xterm", "CLEANUP_DATABASE_URL": database, **variables},
        )
        assert "1,000" in done
        assert planted.execute("select count(*) from after_hours_declines").fetchone() == (1000,)
    if "NO_COLOR" in variables or "dumb" in variables.values():
        assert "\x1b[3" not in plan


@pytest.mark.parametrize("columns", [20, 80, 200])
def test_at_any_width_each_rule_has_its_share_age_time_and_access_and_nothing_is_cut_off(
    database: str, planted: Connection, columns: int
) -> None:
    planted.execute("analyze")
    shown = in_terminal(["plan"], columns, 24, {"TERM": "xterm", "COLUMNS": None, "CLEANUP_DATABASE_URL": database})
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert (plain != shown) == (columns > 20)
    assert "…" not in plain
    for name, rows, share in zip(
        RULES, ("1,000", "1,000", "400", "200", "200"), ("50.0%", "50.0%", "20.0%", "10.0%", "10.0%"), strict=True
    ):
        [row] = re.findall(rf"^{name}\b.*{re.escape(rows)}.*$", plain, re.MULTILINE)
        assert share in row
        assert re.search(r"20\d\d-\d\d-\d\d \d\d:\d\d\b.*\bunder 1 s", row)
        assert columns == 20 or len(row.rstrip()) <= columns
    for access in ("block ranges: no index leads to the due rows", "judged against the parent's key, then by address"):
        assert access in plain


@pytest.mark.parametrize(("typed", "code", "left"), [(b"n\n", 2, 2000), (b"\x04", 2, 2000), (b"y\n", 0, 1000)])
def test_a_terminal_is_asked_before_many_rows_go(
    database: str, planted: Connection, typed: bytes, code: int, left: int
) -> None:
    shown = in_terminal(
        ["run", "--rule", "old_declines"],
        80,
        24,
        {"TERM": "xterm", "CLEANUP_DATABASE_URL": database},
        before="import cleanup_pipeline.cli.run as m; m.MANY_ROWS = 100",
        typed=typed,
        code=code,
    )
    assert "More than 100 rows would go. Go on?" in shown
    assert planted.execute("select count(*) from after_hours_declines").fetchone() == (left,)


def in_terminal(
    arguments: list[str],
    columns: int,
    lines: int,
    variables: dict[str, str | None],
    *,
    before: str = "",
    typed: bytes = b"",
    code: int = 0,
) -> str:
    """Run a command on a pseudo-terminal, and type there; returns what it shows, once it has ended with `code`."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    script = f"{before}\nfrom cleanup_pipeline.cli import main\nmain()"
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments], env=environment(variables), stdin=slave, stdout=slave, stderr=slave
    )
    os.close(slave)
    os.write(master, typed)
    shown = all_shown_on(master)
    assert process.wait(60) == code
    assert "Traceback" not in shown
    return shown


def all_shown_on(master: int) -> str:
    """What a pseudo-terminal was given, piece by piece as it comes, until its other side is closed."""
    shown = b""
    with suppress(OSError):  # the other side is closed
        while read := os.read(master, 65536):
            shown += read
    os.close(master)
    return shown.decode()


@pytest.mark.usefixtures("planted")
def test_two_runs_at_once_do_each_rule_once(database: str) -> None:
    options = ["run", "--json", "--rule", "old_declines", "--rule", "expired_sessions"]
    both = [start(options, {"CLEANUP_DATABASE_URL": database}) for _ in range(2)]
    done = [ended(process) for process in both]
    assert {one.code for one in done} <= {0, 4}
    for name in ("old_declines", "expired_sessions"):
        assert sum(one.rules[name]["affected"] for one in done) == 1000
        assert {one.rules[name]["status"] for one in done} <= {"success", "skipped"}


@pytest.mark.parametrize("columns", [80, 120])
def test_a_bar_has_room_for_its_rules_name_and_numbers_and_is_full_at_the_end(
    monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", "1")  # what is not done yet is then left blank
    observed = Observed(request_for(), Event(), recorded=False)
    observed.results["orphaned_fingerprints"] = Result("orphaned_fingerprints", affected=1_234_567, duration_s=0.5)
    observed.latest["orphaned_preferences"] = Progress("orphaned_preferences", "windows", 12_345_678, 0.45, 1234.0)
    ours, theirs = pty.openpty()
    bars = Bars(Stream(theirs, "utf-8"), observed)
    bars.show()
    bars.close()
    os.close(theirs)
    shown = all_shown_on(ours)
    assert re.search(r"orphaned_fingerprints ━{10,20} 1,234,567 rows in 0\.50 s", shown)
    assert re.search(r"orphaned_preferences  ━{4,9}[╸╺ ]? +45%, 12,345,678 rows, 10,005/s, 1,508 s left", shown)
    assert "…" not in shown
