"""What the server says when it is asked without writing, where its catalog alone does not tell.

`EXPLAIN` takes a statement in hand as far as its first row: what the server would say to every write, whatever the row,
it says here. Nothing is waited for: a table that is locked is told, and not looked into.
"""

from collections.abc import Iterator

import psycopg
from psycopg import errors

from cleanup_pipeline.postgres import Limits, Session, Transaction, explain
from cleanup_pipeline.sweep import access, judgement
from cleanup_pipeline.sweep.catalog import Catalog, Leaf
from cleanup_pipeline.sweep.finding import Finding, Severity
from cleanup_pipeline.sweep.statements import Blocks, Statements

_LIMITS = Limits(statement_s=10.0)
# Enough to meet a row that refers to a parent; judging looks at all of them.
_SOME = Blocks(0, 1_000)
# A publication that needs to identify rows, and can't by what is published of them.
_PUBLISHED = (errors.ObjectNotInPrerequisiteState, errors.InvalidColumnReference)


def try_out(session: Session, statements: Statements) -> Iterator[Finding]:
    """Take each kind of statement in hand without doing it; yields what the server says to that."""
    for leaf in statements.target.leaves:
        try:
            with session.transaction(_LIMITS) as transaction:
                yield from _try_out(transaction, statements, leaf)
        except errors.LockNotAvailable:
            yield Finding(
                Severity.NOTE, f"{leaf.table} is locked by another session, a migration perhaps: not looked into."
            )


def _try_out(transaction: Transaction, statements: Statements, leaf: Leaf) -> Iterator[Finding]:
    publications = Catalog(transaction).publications(list(statements.target.family))
    try:
        transaction.rows(statements.explain_write(leaf))
    except _PUBLISHED:
        yield Finding(
            Severity.REFUSAL,
            f"{leaf.table} is published by {', '.join(publications)} without a replica identity that the publication "
            "covers: the server refuses every such write.",
            f"alter table {leaf.table} replica identity full; or mend the publication's columns and conditions.",
        )
        return
    except (psycopg.ProgrammingError, psycopg.NotSupportedError) as error:
        yield Finding(Severity.REFUSAL, f"The server refuses every such write to {leaf.table}: {explain(error)}.")
        return
    if statements.rule.orphan_of is None:
        yield from _index(transaction, statements, leaf)
    elif statements.target.guard is None and (wrong := judgement.lacks_parents(transaction, statements, leaf, _SOME)):
        yield Finding(Severity.REFUSAL, wrong)


def _index(transaction: Transaction, statements: Statements, leaf: Leaf) -> Iterator[Finding]:
    if access.index_that_leads(transaction, statements, leaf):
        return
    catalog = Catalog(transaction)
    column = statements.target.told_by
    unfit = [
        f"; {name} {'leads to other rows' if valid else 'is invalid'}"
        for name, valid in catalog.indexes_on(leaf.oid, column)
    ]
    yield Finding(
        Severity.NOTE,
        f"No index on {column} leads to the due rows of {leaf.table}: its {catalog.pages([leaf.oid]):,} pages are read "
        f"each time{''.join(unfit)}.",
        f"If that is too much: create index concurrently on {leaf.table} ({column});",
    )
