"""`plan`: what a run would do now. Knows nothing of Dagster."""

from collections.abc import Sequence
from datetime import datetime

from cleanup_pipeline.cli.begin import beginning, options_for, the_database
from cleanup_pipeline.cli.options import Request
from cleanup_pipeline.cli.output import Streams
from cleanup_pipeline.cli.report import Report, not_planned
from cleanup_pipeline.cli.watch import Watch
from cleanup_pipeline.postgres import Session
from cleanup_pipeline.sweep.as_of import choose_as_of
from cleanup_pipeline.sweep.plan import Plan, plan


def work(request: Request, _: Streams, watch: Watch) -> Report:
    """Plan every selected rule. Raises `CannotBeginError`. It only reads: an interrupt may end it anywhere."""
    with beginning():
        session = Session(the_database())
        as_of = choose_as_of(session, request.as_of)
    plans: list[Plan] = []
    watch.so_far = lambda: _report(request, as_of, plans)
    with session:
        # One by one, so that an interrupt can tell of those that are done.
        plans.extend(plan(rule, session, options_for(request, rule, as_of), watch.stop) for rule in request.rules)
    return _report(request, as_of, plans)


def _report(request: Request, as_of: datetime, plans: Sequence[Plan]) -> Report:
    known = {planned.rule: planned.as_json() for planned in plans}
    return Report(
        None,
        as_of,
        {rule.name: known.get(rule.name, not_planned()) for rule in request.rules},
        {planned.rule: planned.notes for planned in plans},
    )
