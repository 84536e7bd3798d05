"""What every command needs first: the database, and settings for each rule."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import psycopg

from cleanup_pipeline.cli.errors import CannotBeginError
from cleanup_pipeline.cli.options import Request
from cleanup_pipeline.postgres import DATABASE_URL_VARIABLE, CleanupError, Database, explain
from cleanup_pipeline.rules import Rule
from cleanup_pipeline.sweep.pace import FULL_SPEED, LOOKING
from cleanup_pipeline.sweep.work import Options


@contextmanager
def beginning() -> Iterator[None]:
    """Before anything is touched, whatever fails keeps the command from beginning: raises `CannotBeginError`."""
    try:
        yield
    except CleanupError as error:
        raise CannotBeginError(str(error)) from None
    except psycopg.Error as error:
        raise CannotBeginError(f"The database does not answer as it should: {explain(error)}.") from None


def the_database() -> Database:
    """The database to clean. Raises `ConfigurationError`."""
    return Database.parse(os.environ.get(DATABASE_URL_VARIABLE))


def options_for(request: Request, rule: Rule, as_of: datetime) -> Options:
    """How a rule is to be looked at."""
    pace = FULL_SPEED if request.full_speed else LOOKING
    return Options(as_of, pace, request.age(rule), request.allow_share, request.deep)
