"""How far each partition is in the target.

Owns the table `_headrace_positions`. It is written in the transaction of the rows, and it is the fence: a process that
does not find its own last position there writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from psycopg import errors

from headrace.egress.sdk import ConnectorConfig
from headrace.egress.sql_tables import position_moved
from headrace_postgres.session import Connection
from headrace_postgres.table import has
from headrace_postgres.types import quoted

POSITIONS_TABLE = "_headrace_positions"


class Positions:
    """The positions of one egress."""

    def __init__(self, config: ConnectorConfig, schema: str) -> None:
        self._egress, self._topic = config.egress, config.topic
        self.table = f"{quoted(schema)}.{quoted(POSITIONS_TABLE)}"

    def exist(self, connection: Connection) -> bool:
        """Whether there is a table of them."""
        return has(connection, "to_regclass", self.table)

    def create(self, connection: Connection) -> None:
        """Make the table, unless it is there: `IF NOT EXISTS` alone asks for the right to make it."""
        if self.exist(connection):
            return
        connection.execute(
            f"CREATE TABLE IF NOT EXISTS {self.table} (egress text NOT NULL, topic text NOT NULL,"
            " partition integer NOT NULL, next_offset bigint NOT NULL, updated_at timestamptz NOT NULL DEFAULT now(),"
            " PRIMARY KEY (egress, topic, partition))"
        )

    def held(self, connection: Connection) -> Mapping[int, int]:
        """Next offset of each partition that the target knows."""
        query = f"SELECT partition, next_offset FROM {self.table} WHERE egress = %s AND topic = %s"
        return dict(connection.execute(query, [self._egress, self._topic]).fetchall())

    def move(self, connection: Connection, before: Mapping[int, int], after: Mapping[int, int]) -> None:
        """Set these positions, whose values `before` this process left; absent ones must still be absent.

        A second process waits here for the first one's end and then finds its rows. Raises `PositionMoved`.
        """
        known = sorted(after.keys() & before.keys())
        new = sorted(after.keys() - before.keys())
        moved = connection.execute(
            f"UPDATE {self.table} p SET next_offset = v.after, updated_at = now()"
            " FROM unnest(%s::integer[], %s::bigint[], %s::bigint[]) v(partition, before, after)"
            " WHERE egress = %s AND topic = %s AND p.partition = v.partition AND p.next_offset = v.before",
            [known, [before[each] for each in known], [after[each] for each in known], self._egress, self._topic],
        ).rowcount
        try:
            connection.execute(
                f"INSERT INTO {self.table} (egress, topic, partition, next_offset)"
                " SELECT %s, %s, * FROM unnest(%s::integer[], %s::bigint[])",
                [self._egress, self._topic, new, [after[each] for each in new]],
            )
        except errors.UniqueViolation as error:
            raise position_moved(self.table, self._topic, new) from error
        if moved != len(known):
            raise position_moved(self.table, self._topic, known)
