"""A rule as it meets one database."""

from dataclasses import dataclass

from cleanup_pipeline.rules import Rule
from cleanup_pipeline.sweep.catalog import Leaf


@dataclass(frozen=True)
class Target:
    """A rule as it meets the database: the tables to sweep and what is known of them.

    `family` are the oids of the leaves and of the partitioned tables above them, `parent` that of an orphan's parent,
    `known_keys` those of the enforced foreign keys that there are, `known_triggers` the enabled triggers as they are:
    what is added or changed during the sweep has not been checked. `defers`: something waits for the commit.
    `told_by`: the column that tells a row's age first.
    `scanned_pages`: so many pages of other tables each deleted row scans, for want of an index on a foreign key.
    """

    rule: Rule
    leaves: tuple[Leaf, ...]
    told_by: str
    age_columns: tuple[str, ...]
    age_may_be_null: bool
    reference_type: str | None
    parent_is_indexed: bool
    guard: str | None
    scanned_pages: int = 0
    family: tuple[int, ...] = ()
    parent: int | None = None
    known_keys: tuple[int, ...] = ()
    known_triggers: tuple[str, ...] = ()
    defers: bool = False
    triggers: tuple[str, ...] = ()
