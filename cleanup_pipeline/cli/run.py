"""`run`: the job, now, through Dagster."""

import sys
import threading

import click
from psycopg import errors, sql

from cleanup_pipeline.cli.begin import beginning, options_for, the_database
from cleanup_pipeline.cli.errors import CannotBeginError
from cleanup_pipeline.cli.options import Request
from cleanup_pipeline.cli.output import Streams
from cleanup_pipeline.cli.report import Report, link_to
from cleanup_pipeline.cli.storage import Storage, StorageError, find_storage
from cleanup_pipeline.cli.watch import Watch
from cleanup_pipeline.postgres import Database, Limits, Session, Transaction
from cleanup_pipeline.rules import Rule
from cleanup_pipeline.sweep import preflight
from cleanup_pipeline.sweep.as_of import choose_as_of
from cleanup_pipeline.sweep.catalog import Leaf
from cleanup_pipeline.sweep.plan import plan
from cleanup_pipeline.sweep.reader import LockedError, Reader
from cleanup_pipeline.sweep.statements import Statements
from cleanup_pipeline.sweep.work import Options, statements_for

MANY_ROWS = 1_000_000
"""Before more rows than these go, somebody must have said so."""
# No page of 8 kB holds more rows than these, however small they are.
_MOST_ROWS_A_PAGE = 291


def work(request: Request, streams: Streams, watch: Watch) -> Report:
    """Check everything, ask where that is due, then run. Raises `CannotBeginError` as long as nothing is touched."""
    try:
        storage = find_storage(record=request.record)
        with beginning():
            database = the_database()
            storage.reach()
            _check(database, request, streams, watch)
        return _run(request, storage, streams, watch)
    except StorageError as error:
        raise CannotBeginError(f"{error.message} --no-record runs without it.") from None


def _run(request: Request, storage: Storage, streams: Streams, watch: Watch) -> Report:
    from cleanup_pipeline.cli.display import display_on
    from cleanup_pipeline.cli.execution import Observed, ended_at_once, execute

    with storage.instance() as instance:
        if storage.unrecorded:
            streams.err.line(storage.unrecorded)
        elif where := link_to(request.run_id):
            streams.err.line(f"Watch it: {where}")
        observed = Observed(request, watch.stop, recorded=not storage.unrecorded)
        watch.so_far = lambda: ended_at_once(instance, observed)
        watch.begin()
        watch.display = display_on(streams.err, observed)
        return execute(request, instance, observed)


def _check(database: Database, request: Request, streams: Streams, watch: Watch) -> None:
    """See that it can be reached and that `as_of` is no future there; ask where much would go."""
    # The run has its own connection, and may have the only one that there is.
    with Session(database) as session:
        as_of = choose_as_of(session, request.as_of)
        if request.sure or (request.max_rows is not None and request.max_rows <= MANY_ROWS):
            return
        asked = [(rule, options_for(request, rule, as_of)) for rule in request.rules]
        most = {rule.name: _at_most(session, rule, options) for rule, options in asked}
        if sum(most.values()) <= MANY_ROWS:
            return
        streams.err.line("Counting what would go; --yes spares that.")
        rows = 0
        for rule, options in asked:
            if not most[rule.name]:
                continue
            rows += plan(rule, session, options, watch.stop).candidates or 0
            if rows > MANY_ROWS:
                _ask(streams)
                return


def _at_most(session: Session, rule: Rule, options: Options) -> int:
    """More rows than these can't go by `rule`, found out without reading its table.

    A rule that meets a locked table counts as none: it will fail and say which, and the others are to go on.
    """
    reader = Reader(session, options.pace, threading.Event())
    try:
        report = preflight.inspect(session, rule, deep=options.deep)
        target = report.target
        if target is None or report.refusals or target.guard:
            return 0
        statements = statements_for(target, options)
        return sum(_rows_at_most(reader, statements, leaf) for leaf in target.leaves)
    except (errors.LockNotAvailable, LockedError):
        return 0


def _rows_at_most(reader: Reader, statements: Statements, leaf: Leaf) -> int:
    most = reader.pages(statements, leaf) * _MOST_ROWS_A_PAGE
    if most <= MANY_ROWS:
        return most

    def count(transaction: Transaction) -> int:
        # By an index, which after a vacuum needs no page of the table itself.
        transaction.run(sql.SQL("set local enable_seqscan = off"))
        return int(transaction.one(statements.count_up_to(leaf, MANY_ROWS + 1))[0])

    try:
        rows = reader.once(count, Limits(statement_s=1.0))
    except errors.QueryCanceled:
        return most
    return rows if rows <= MANY_ROWS else most


def _ask(streams: Streams) -> None:
    """Go on only if somebody says yes. Raises `CannotBeginError`."""
    what = f"More than {MANY_ROWS:,} rows would go"
    if not (sys.stdin is not None and sys.stdin.isatty() and streams.err.is_terminal):
        raise CannotBeginError(f"{what}: say --yes, or limit them with --max-rows. Nothing was touched.")
    try:
        sure = click.confirm(f"{what}. Go on?", err=True)
    except click.Abort:
        sure = False
    if not sure:
        raise CannotBeginError("Nothing was touched.")
