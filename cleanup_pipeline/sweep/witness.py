"""Whether anybody else has written to the server since a moment: every transaction that writes takes an id."""

from psycopg import sql

from cleanup_pipeline.postgres import Session
from cleanup_pipeline.sweep.reader import Reader

_SNAPSHOT = sql.SQL(
    "select pg_catalog.pg_snapshot_xmin(now)::text::bigint, pg_catalog.pg_snapshot_xmax(now)::text::bigint"
    " from pg_catalog.pg_current_snapshot() as now"
)


class Witness:
    """Made before a walk, and asked after it: where nobody else has written, no row can have moved behind the walk.

    A transaction that is still under way then is not known of, as a look at the rows would not know of it.
    """

    def __init__(self, reader: Reader, session: Session) -> None:
        self._reader = reader
        self._session = session
        self._generation = session.generation
        self._written = session.written
        self._oldest, self._next = self._snapshot()

    def saw_nobody(self) -> bool:
        """Whether all ids that were taken since are those of our own transactions."""
        written = self._session.written - self._written
        return (
            self._oldest == self._next
            and self._snapshot() == (self._next + written,) * 2
            and self._generation == self._session.generation
        )

    def _snapshot(self) -> tuple[int, int]:
        oldest, following = self._reader.once(lambda transaction: transaction.one(_SNAPSHOT))
        return int(oldest), int(following)
