"""The tags that the pipeline puts on its runs. A re-execution inherits every one of them from its parent.

Hence a claim and an outcome name the run that they are about: `cleanup/claim` holds the claiming run's own id, and
`cleanup/outcome` is believed only where `cleanup/outcome_of` holds the id of the run that carries it.
"""

from typing import Literal, get_args

DAY = "cleanup/day"
"""The UTC day whose run this is, as `2026-11-24`. Manual runs don't carry it."""

TRIGGER = "cleanup/trigger"
"""What started the run: `schedule`, `sensor` or `manual`."""

BY = "cleanup/by"
"""Who started a run from the command line, as `user@host`."""

REASON = "cleanup/reason"
"""Why a person started a manual run."""

ALLOW_SHARE = "cleanup/allow_share"
"""To what share of a table a person lifted the fuse for this run."""

GATE = "cleanup/gate"
"""Set where the run started without message cleanup having succeeded: `late` or `off`."""

CLAIM = "cleanup/claim"
"""The id of the run that claimed the day."""

OUTCOME = "cleanup/outcome"
"""How the run ended: one of `OUTCOMES`."""

OUTCOME_OF = "cleanup/outcome_of"
"""The id of the run whose outcome this is."""

LIMITED = "cleanup/limited"
"""The id of the run that left something behind since a limit of its own, on rows or time, was reached."""

Outcome = Literal["success", "failed", "refused", "skipped", "interrupted", "superseded"]
LONGEST = 500
"""So many characters a tag that a person fills may have: Dagster's storage indexes tags, up to 2,704 bytes."""

OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)

UNFINISHED = "unfinished"
"""Stands in place of an inherited outcome while the run that inherited it has none of its own."""


def outcome_tags(run_id: str, outcome: Outcome) -> dict[str, str]:
    """Return the tags with which a run says how it ended; they are to be added in one call."""
    return {OUTCOME: outcome, OUTCOME_OF: run_id}
