"""Dagster's storage: which, whether it can be reached, and the instance on it.

Dagster itself connects without a limit of time, and ends in long tracebacks: so all of that is looked at before.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from psycopg.conninfo import make_conninfo

from cleanup_pipeline.cli.errors import CannotBeginError
from cleanup_pipeline.postgres import CleanupError, Database

if TYPE_CHECKING:
    from dagster import DagsterInstance


_NO_HOME = (
    "The run goes unrecorded: DAGSTER_HOME is not set. Set it to the folder of dagster.yaml, and DAGSTER_POSTGRES_URL "
    "to Dagster's own storage."
)
# Dagster would copy a step's stdout and stderr to the UI by child processes, which a Ctrl-C typed at a terminal reaches
# too, with a traceback. The command writes to neither within a step.
_NO_CAPTURE = {
    "compute_logs": {"module": "dagster._core.storage.noop_compute_log_manager", "class": "NoOpComputeLogManager"}
}


class StorageError(CannotBeginError):
    """Dagster's storage is not configured as it should be, or can't be reached."""


@dataclass(frozen=True)
class Storage:
    """Where runs are recorded.

    `home` is None where they are not, and `unrecorded` says why. `database` is None where dagster.yaml names none.
    """

    home: Path | None = None
    database: Database | None = None
    unrecorded: str | None = None

    def reach(self) -> None:
        """Connect once, within a limited time. Raises `StorageError`."""
        if self.database is None:
            return
        try:
            self.database.open().close()
        except CleanupError as error:
            raise StorageError(f"Dagster's storage can't be used. {error}") from None

    @contextmanager
    def instance(self) -> "Iterator[DagsterInstance]":
        """Open the instance, or one in memory where nothing is recorded. Raises `StorageError`."""
        from dagster import DagsterInstance
        from dagster._core.instance import InstanceRef

        if self.home is None:
            opened = DagsterInstance.ephemeral(settings={"telemetry": {"enabled": False}})
        else:
            try:
                opened = DagsterInstance.from_ref(InstanceRef.from_dir(str(self.home), overrides=_NO_CAPTURE))
            except Exception as error:
                if missing := _import_error_in(error):
                    raise missing from None
                # What it says may hold the storage's URL.
                raise StorageError(
                    f"Dagster can't open its storage ({type(error).__name__}): check {self.home / 'dagster.yaml'} and "
                    f"the variables that it names."
                ) from None
        with opened:
            yield opened


def find_storage(*, record: bool, environment: Mapping[str, str] = os.environ) -> Storage:
    """Find out by DAGSTER_HOME and its dagster.yaml; connects to nothing. Raises `StorageError`."""
    told = environment.get("DAGSTER_HOME")
    if not record:
        return Storage(unrecorded="The run goes unrecorded (--no-record).")
    if not told:
        return Storage(unrecorded=_NO_HOME)
    home = Path(told).expanduser()
    if not home.is_absolute():
        raise StorageError(f"DAGSTER_HOME is {told!r}, a relative path: give an absolute one.")
    if not home.is_dir():
        raise StorageError(f"DAGSTER_HOME is {told!r}, which is no directory: make it or mend it.")
    return Storage(home, _database_of(home, environment))


def _import_error_in(error: BaseException | None) -> ImportError | None:
    """Why a module that dagster.yaml names can't be loaded, where that is why."""
    while error is not None and not isinstance(error, ImportError):
        error = error.__cause__ or error.__context__
    return error


def _database_of(home: Path, environment: Mapping[str, str]) -> Database | None:
    config = _read(home / "dagster.yaml")
    postgres = _part(_part(config, "storage"), "postgres")
    names: list[str] = []

    def value(of: object) -> Any:
        """What stands there, or in the variable that stands there."""
        name = _part(of, "env")
        if not isinstance(name, str):
            return of
        names.append(name)
        if not environment.get(name):
            raise StorageError(
                f"{name} is not set, and {home / 'dagster.yaml'} takes Dagster's storage from it: "
                f"give it that database's URL."
            )
        return environment[name]

    if url := value(_part(postgres, "postgres_url")):
        # SQLAlchemy's way to name a driver.
        plain = str(url).replace("postgresql+psycopg2://", "postgresql://", 1)
        return _parsed(plain, names[0] if names else f"postgres_url in {home / 'dagster.yaml'}")
    parts = _part(postgres, "postgres_db")
    known = {"hostname": "host", "port": "port", "username": "user", "password": "password", "db_name": "dbname"}
    given = {libpq: value(_part(parts, ours)) for ours, libpq in known.items()}
    if not given["host"]:
        return None
    where = f"postgres_db in {home / 'dagster.yaml'}"
    try:
        return _parsed(make_conninfo("", **given), where)
    except UnicodeError:
        raise StorageError(f"{where} has a value that is no text.") from None


def _parsed(url: str, where: str) -> Database:
    try:
        return Database.parse(url, where)
    except CleanupError as error:
        raise StorageError(str(error)) from None


def _read(path: Path) -> object:
    try:
        return yaml.safe_load(path.read_text()) if path.is_file() else None
    except (yaml.YAMLError, OSError, UnicodeError) as error:
        raise StorageError(f"{path} can't be read ({type(error).__name__}).") from None


def _part(of: object, name: str) -> object:
    return of.get(name) if isinstance(of, dict) else None
