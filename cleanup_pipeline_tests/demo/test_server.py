import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from cleanup_pipeline.demo import server as module
from cleanup_pipeline.demo.server import DemoUnavailableError, EmbeddedServer, embedded_server


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that, unlike pytest's own, other tests' servers need not pass through."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def process_of(server: EmbeddedServer) -> int:
    return int((server.socket_folder / "postmaster.pid").read_text().splitlines()[0])


def runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def setting(server: EmbeddedServer, name: str) -> str:
    with psycopg.connect(server.url()) as connection:
        return str(connection.execute("select current_setting(%s)", [name]).fetchall()[0][0])


def test_a_temporary_server_is_stopped_and_its_folder_removed() -> None:
    with embedded_server(durable=False) as server:
        process = process_of(server)
        assert setting(server, "fsync") == "off"
        assert setting(server, "max_connections") == "200"
        assert setting(server, "listen_addresses") == ""
    assert not runs(process)
    assert not server.socket_folder.exists()


def test_databases_are_made_once_and_kept_in_a_folder_that_is_given(folder: Path) -> None:
    with embedded_server(folder / "new") as server:
        assert setting(server, "fsync") == "on"
        with psycopg.connect(server.create_database("odd name/?%"), autocommit=True) as connection:
            connection.execute("create table kept ()")
    with (
        embedded_server(folder / "new") as server,
        psycopg.connect(server.create_database("odd name/?%")) as connection,
    ):
        assert connection.execute("select count(*) from kept").fetchone() == (0,)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
def test_the_server_is_stopped_however_its_block_ends(error: type[BaseException]) -> None:
    processes = []

    def fail() -> None:
        with embedded_server(durable=False) as server:
            processes.append(process_of(server))
            raise error

    with pytest.raises(error):
        fail()
    assert [runs(process) for process in processes] == [False]


def test_ctrl_c_in_the_terminal_ends_the_program_and_then_the_server(folder: Path) -> None:
    program = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", WAITING_PROGRAM, folder], stdout=subprocess.PIPE, start_new_session=True
    )
    assert program.stdout
    server = int(program.stdout.readline())
    os.killpg(program.pid, signal.SIGINT)  # as a terminal does: to all of its foreground processes
    assert b"still there" in program.communicate(timeout=30)[0]
    assert not runs(server)


def test_the_server_of_a_process_that_was_killed_is_replaced(folder: Path) -> None:
    program = subprocess.Popen([sys.executable, "-c", WAITING_PROGRAM, folder], stdout=subprocess.PIPE)
    assert program.stdout
    leftover = int(program.stdout.readline())
    program.kill()
    program.communicate()
    assert runs(leftover)
    with embedded_server(folder) as server:
        assert process_of(server) != leftover  # which has ended: two can't be on the same files
        assert setting(server, "fsync") == "on"


def test_a_folder_has_one_server_at_a_time(folder: Path) -> None:
    with (
        embedded_server(folder, durable=False),
        pytest.raises(DemoUnavailableError, match="another process"),
        embedded_server(folder),
    ):
        pass


def test_a_path_may_be_longer_than_a_socket_s_name_and_hold_spaces(folder: Path) -> None:
    for name in ("with a space, a comma and a 'quote'", "long" * 40):
        with embedded_server(folder / name, durable=False) as server:
            assert setting(server, "server_version")


def test_temporary_folders_may_be_long_and_the_umask_strict(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = folder / ("long" * 40)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    before = os.umask(0o077)
    try:
        with embedded_server(durable=False) as server:
            assert setting(server, "server_version")
    finally:
        os.umask(before)
    assert list(long.iterdir()) == []
    assert not server.socket_folder.exists()


def test_only_its_owner_can_reach_the_server(folder: Path) -> None:
    for place in (folder, folder / ("long" * 40)):
        with embedded_server(place, durable=False) as server:
            assert server.socket_folder.stat().st_mode & 0o077 == 0


def test_variables_that_steer_other_servers_do_not_steer_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPORT", "6543")
    monkeypatch.setenv("PGDATA", "elsewhere")
    monkeypatch.setenv("LC_ALL", "xx_XX.UTF-8")
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    before = dict(os.environ)
    with embedded_server(durable=False) as server:
        assert setting(server, "port") == "5432"
    assert dict(os.environ) == before


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(DemoUnavailableError, match=r"pip install 'cleanup-pipeline\[demo\]'"), embedded_server():
        pass


def test_a_server_that_does_not_start_tells_the_end_of_its_log(folder: Path) -> None:
    with embedded_server(folder, durable=False):
        pass
    (folder / "postgres" / "postgresql.conf").write_text("no_such_setting = on\n")
    with pytest.raises(DemoUnavailableError, match="no_such_setting"), embedded_server(folder):
        pass


WAITING_PROGRAM = textwrap.dedent("""
    import sys, time
    from pathlib import Path
    import psycopg
    from cleanup_pipeline.demo.server import embedded_server

    with embedded_server(Path(sys.argv[1]), durable=False) as server:
        try:
            print((server.socket_folder / "postmaster.pid").read_text().splitlines()[0], flush=True)
            time.sleep(60)
        except KeyboardInterrupt:
            psycopg.connect(server.url()).close()
            print("still there")
            raise
""")
