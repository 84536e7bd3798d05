"""What the server says when it is asked without writing, where its catalog alone does not tell.

`EXPLAIN` takes a statement in hand as far as its first row: what the server would say to every write, whatever the row,
it says here. Nothing is waited for: a table that is locked is told, and not looked into.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import psycopg
from psycopg import errors

from cleanup_pipeline.postgres import Limits, Session, Transaction, explain
from cleanup_pipeline.sweep import access, judgement
from cleanup_pipeline.sweep.catalog import Catalog, Leaf
from cleanup_pipeline.sweep.finding import Finding, Severity
from cleanup_pipeline.sweep.privileges import quoted
from cleanup_pipeline.sweep.statements import Blocks, Statements

_LIMITS = Limits(statement_s=10.0)
# Enough to meet a row that refers to a parent; judging looks at all of them.
_SOME = Blocks(0, 1_000)
# Read in a fifth of a second, with the rests of the default pace; an index is paid for by every write of the app.
_MANY_PAGES = 4_000
# A publication that needs to identify rows, and can't by what is published of them.
_PUBLISHED = (errors.ObjectNotInPrerequisiteState, errors.InvalidColumnReference)


@dataclass(slots=True)
class _Walked:
    """The tables of a rule to whose due rows no index leads."""

    leaves: list[Leaf] = field(default_factory=list)
    pages: int = 0
    unfit: list[str] = field(default_factory=list)


def try_out(session: Session, statements: Statements) -> Iterator[Finding]:
    """Take each kind of statement in hand without doing it; yields what the server says to that."""
    walked = _Walked()
    for leaf in statements.target.leaves:
        try:
            with session.transaction(_LIMITS, rows=True) as transaction:
                transaction.rows(statements.explain_write(leaf))
                yield from _look(transaction, statements, leaf, walked)
        except errors.LockNotAvailable:
            yield Finding(
                Severity.NOTE, f"{leaf.table} is locked by another session, a migration perhaps: not looked into."
            )
        except _PUBLISHED:
            yield _published(session, statements, leaf)
        except (psycopg.ProgrammingError, psycopg.NotSupportedError) as error:
            yield Finding(Severity.REFUSAL, f"The server refuses every such write to {leaf.table}: {explain(error)}.")
    if walked.leaves:
        yield _no_index(statements, walked)


def _published(session: Session, statements: Statements, leaf: Leaf) -> Finding:
    with session.transaction(_LIMITS) as transaction:
        publications = Catalog(transaction).publications(list(statements.target.family))
    return Finding(
        Severity.REFUSAL,
        f"{leaf.table} is published by {', '.join(publications)} without a replica identity that the publication "
        "covers: the server refuses every such write.",
        f"alter table {quoted(leaf.table.schema, leaf.table.name)} replica identity full; or mend the publication's "
        "columns and conditions.",
    )


def _look(transaction: Transaction, statements: Statements, leaf: Leaf, walked: _Walked) -> Iterator[Finding]:
    if statements.rule.orphan_of is None:
        _look_for_an_index(transaction, statements, leaf, walked)
    elif wrong := judgement.lacks_parents(transaction, statements, leaf, _SOME):
        yield Finding(Severity.REFUSAL, wrong)


def _look_for_an_index(transaction: Transaction, statements: Statements, leaf: Leaf, walked: _Walked) -> None:
    if access.index_that_leads(transaction, statements, leaf):
        return
    catalog = Catalog(transaction)
    walked.leaves.append(leaf)
    walked.pages += catalog.pages([leaf.oid])
    walked.unfit += [
        f"; {name} {'leads to other rows' if valid else 'is invalid'}"
        for name, valid in catalog.indexes_on(leaf.oid, statements.target.told_by)
    ]


def _no_index(statements: Statements, walked: _Walked) -> Finding:
    """That the table is read as a whole; what to do about it only where that is felt."""
    column, target = statements.target.told_by, statements.target
    table, index = statements.rule.table, quoted(target.told_by)
    whole, within = quoted(table.schema, table.name), ""
    do = f"create index concurrently on {whole} ({index});"
    if len(target.leaves) > 1:
        within = f" in {len(walked.leaves):,} of its {len(target.leaves):,} partitions"
        do = f"create index concurrently on each of the partitions, then create index on {whole} ({index});"
    return Finding(
        Severity.NOTE,
        f"No index on {column} leads to the due rows of {table}{within}: {walked.pages:,} pages are read each "
        f"time{''.join(walked.unfit)}.",
        f"If that is too much: {do}" if walked.pages >= _MANY_PAGES else "",
    )
