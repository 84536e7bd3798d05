"""`grants`: what a role needs for the rules that are on, as statements to run."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cleanup_pipeline.cli.begin import beginning, the_database
from cleanup_pipeline.cli.errors import CannotBeginError, ExitCode
from cleanup_pipeline.cli.options import Request
from cleanup_pipeline.cli.output import Stream, Streams
from cleanup_pipeline.cli.report import document
from cleanup_pipeline.cli.watch import Watch
from cleanup_pipeline.postgres import Limits, Session
from cleanup_pipeline.rules import Close
from cleanup_pipeline.sweep.catalog import Catalog
from cleanup_pipeline.sweep.privileges import Privilege, grant_database, grant_function, grant_schema, grants, needed

# PostgreSQL takes these for something else than a role's name, also in quotes.
_NO_ROLES = ("public", "none", "")


@dataclass(frozen=True)
class Grants:
    """The statements; `missing` are tables that do not exist, for which there can be none."""

    statements: Sequence[str]
    missing: Sequence[str]

    @property
    def code(self) -> ExitCode:
        """What the shell is told."""
        return ExitCode.REFUSED if self.missing else ExitCode.DONE

    def as_json(self) -> str:
        """The one document."""
        return document({"grants": list(self.statements), "missing": list(self.missing)})

    def as_text(self, _: Stream) -> str:
        """One statement a line, to be piped into psql by the tables' owner."""
        return "".join(f"{statement}\n" for statement in self.statements)

    def sentences(self) -> Iterator[str]:
        """Which tables are not there."""
        for table in self.missing:
            yield f"The table {table} does not exist in this database. Check the database in the URL."


def work(request: Request, _: Streams, __: Watch) -> Grants:
    """Look what the tables are like here, partitions included. Raises `CannotBeginError`."""
    role = request.role or ""
    if role in _NO_ROLES:
        raise CannotBeginError(
            f'"{role}" is no role of its own (public is everybody): name the role that the pipeline logs in as.'
        )
    with (
        beginning(),
        Session(the_database()) as session,
        session.transaction(Limits(statement_s=10.0)) as transaction,
    ):
        catalog = Catalog(transaction)
        privileges, functions, missing = _needed(request, catalog)
        schemas = dict.fromkeys(privilege.table.schema for privilege in privileges)
        return Grants(
            [
                grant_database(catalog.database(), role),
                *(grant_schema(schema, role) for schema in schemas),
                *grants(privileges, role),
                *(grant_function(function, role) for function in functions),
            ],
            missing,
        )


def _needed(request: Request, catalog: Catalog) -> tuple[list[Privilege], list[str], list[str]]:
    privileges: list[Privilege] = []
    functions: dict[str, None] = {}
    missing: dict[str, None] = {}
    for rule in request.rules:
        table = catalog.relation(rule.table)
        parent = catalog.relation(rule.orphan_of.parent) if rule.orphan_of else None
        if table is None:
            missing[str(rule.table)] = None
        elif rule.orphan_of and parent is None:
            missing[str(rule.orphan_of.parent)] = None
        else:
            leaves = catalog.leaves(table)
            privileges += needed(rule, table, leaves, parent)
            if isinstance(rule.action, Close):
                functions |= dict.fromkeys(catalog.functions_barred("public", [leaf.oid for leaf in leaves]))
    return privileges, list(functions), list(missing)
