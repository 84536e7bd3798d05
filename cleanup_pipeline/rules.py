"""What is cleaned, as data.

A rule names a table, what is done to its rows, and which rows are due. Op, asset, plan, preflight, grants and the
command line follow from it. Another table stands in a rule only as a `Reference`, never as SQL: the sweep owns the one
safe way to judge an orphan.
"""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal, NamedTuple


def escaped(text: str) -> str:
    """The text with control characters and line ends escaped: names in a database may hold them."""
    return "".join(f"\\x{ord(char):02x}" if unicodedata.category(char) in ("Cc", "Zl", "Zp") else char for char in text)


class Table(NamedTuple):
    """A table's exact name, unquoted. Tables are in `public` unless the rule says otherwise."""

    name: str
    schema: str = "public"

    def __str__(self) -> str:
        return escaped(f"{self.schema}.{self.name}")


@dataclass(frozen=True, slots=True)
class Delete:
    """Due rows are deleted."""


@dataclass(frozen=True, slots=True)
class Close:
    """Due rows are kept and get `column := value`, where `value` is another column of the same row."""

    column: str
    value: str


@dataclass(frozen=True, slots=True)
class Age:
    """How old a row must be before it is due.

    A row's age is the greatest of those of `columns` that the table has; the first must exist. A row whose age is null
    or in the future is never due. A *retention* is how long rows are kept; a *grace* is how long the app may take to
    complete what it writes in several transactions (a fingerprint may be committed before its session).
    """

    columns: tuple[str, ...]
    kind: Literal["retention", "grace"]
    default: timedelta


@dataclass(frozen=True, slots=True)
class Reference:
    """A column that names a row of another table: a row is an orphan where `parent` has no row with that `key`."""

    column: str
    parent: Table
    key: str


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that is cleaned.

    `due` holds conditions on the row itself, in SQL, with `%(as_of)s` (never another table; the conditions on age and
    reference are added by the sweep). `columns` names the columns that `due` and `action` use, with their types.
    `may_touch` names the tables that the write may reach by a cascade. `max_share` is the fuse: the largest share of
    its table that the rule may take in one run.
    """

    name: str
    op: str
    asset: tuple[str, str]
    about: str
    table: Table
    action: Delete | Close
    due: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict, hash=False)
    age: Age | None = None
    orphan_of: Reference | None = None
    may_touch: frozenset[Table] = frozenset()
    max_share: float | None = None
    enabled: bool = True


USERS = Table("users")
SESSIONS = Table("after_hours_sessions")

OVERDUE_AFTER = timedelta(hours=26)
"""A row that has been due for so long was left by an earlier night. Nights are a day apart; one may begin late."""

# Long enough for the app to commit a session after the fingerprint that names it.
GRACE = timedelta(hours=1)
# An orphan rule that would take more than this of its table more likely sees a damaged parent than so many orphans.
MAX_ORPHANED_SHARE = 0.25

EXPIRED_SESSIONS = Rule(
    name="expired_sessions",
    op="close_expired_sessions",
    asset=("after_hours", "sessions"),
    about="Sessions that have expired and were never ended are closed at their own expiry; the session is kept.",
    table=SESSIONS,
    action=Close(column="ended_at", value="expires_at"),
    due="ended_at is null and expires_at < %(as_of)s",
    columns={"ended_at": "timestamp with time zone", "expires_at": "timestamp with time zone"},
)

OLD_DECLINES = Rule(
    name="old_declines",
    op="delete_old_declines",
    asset=("after_hours", "declines"),
    about="Declines first made more than 7 days ago are deleted, so that people can meet again.",
    table=Table("after_hours_declines"),
    action=Delete(),
    age=Age(columns=("created_at",), kind="retention", default=timedelta(days=7)),
)

ORPHANED_FINGERPRINTS = Rule(
    name="orphaned_fingerprints",
    op="delete_orphaned_fingerprints",
    asset=("after_hours", "device_fingerprints"),
    about="Device fingerprints whose session no longer exists are deleted; those without a session are kept.",
    table=Table("device_fingerprints"),
    action=Delete(),
    age=Age(columns=("created_at", "updated_at"), kind="grace", default=GRACE),
    orphan_of=Reference(column="session_id", parent=SESSIONS, key="id"),
    max_share=MAX_ORPHANED_SHARE,
)

ORPHANED_PROFILES = Rule(
    name="orphaned_profiles",
    op="delete_orphaned_profiles",
    asset=("after_hours", "profiles"),
    about="After Hours profiles whose user no longer exists are deleted.",
    table=Table("after_hours_profiles"),
    action=Delete(),
    age=Age(columns=("created_at", "updated_at"), kind="grace", default=GRACE),
    orphan_of=Reference(column="user_id", parent=USERS, key="id"),
    max_share=MAX_ORPHANED_SHARE,
)

ORPHANED_PREFERENCES = Rule(
    name="orphaned_preferences",
    op="delete_orphaned_preferences",
    asset=("after_hours", "preferences"),
    about="After Hours preferences whose user no longer exists are deleted.",
    table=Table("after_hours_preferences"),
    action=Delete(),
    age=Age(columns=("created_at", "updated_at"), kind="grace", default=GRACE),
    orphan_of=Reference(column="user_id", parent=USERS, key="id"),
    max_share=MAX_ORPHANED_SHARE,
)

RULES: tuple[Rule, ...] = (
    EXPIRED_SESSIONS,
    OLD_DECLINES,
    ORPHANED_FINGERPRINTS,
    ORPHANED_PROFILES,
    ORPHANED_PREFERENCES,
)
"""Every rule, in the order in which a run carries them out."""

RULES_ON: tuple[Rule, ...] = tuple(rule for rule in RULES if rule.enabled)
