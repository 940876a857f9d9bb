"""How far each partition is in the target.

Owns the table `_headrace_positions`. It is written in the transaction of the rows, and it is the fence: a process that
does not find its own last position there writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pymysql
from pymysql.connections import Connection

from headrace.egress.sdk import ConnectorConfig
from headrace.egress.sql_tables import position_moved
from headrace_mysql.session import rows
from headrace_mysql.types import quoted

POSITIONS_TABLE = "_headrace_positions"
_TABLE = quoted(POSITIONS_TABLE)
_LISTED = "SELECT 1 FROM information_schema.tables WHERE table_schema = database() AND table_name = %s"
_DUPLICATE = 1062


class Positions:
    """The positions of one egress."""

    def __init__(self, config: ConnectorConfig) -> None:
        self._egress, self._topic = config.egress, config.topic

    def exist(self, connection: Connection) -> bool:
        """Whether there is a table of them."""
        return bool(rows(connection, _LISTED, [POSITIONS_TABLE]))

    def create(self, connection: Connection) -> None:
        """Make the table, unless it is there: `IF NOT EXISTS` alone asks for the right to make it."""
        if self.exist(connection):
            return
        rows(
            connection,
            f"CREATE TABLE IF NOT EXISTS {_TABLE} (egress varchar(64) NOT NULL, topic varchar(249) NOT NULL,"
            " `partition` int NOT NULL, next_offset bigint NOT NULL, updated_at timestamp(6) NOT NULL DEFAULT"
            " current_timestamp(6) ON UPDATE current_timestamp(6), PRIMARY KEY (egress, topic, `partition`))"
            " ENGINE=InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
        )

    def rights(self, connection: Connection) -> Sequence[tuple[str, Sequence[str]]]:
        """What is done with the table."""
        makes = [] if self.exist(connection) else ["CREATE"]
        return [(POSITIONS_TABLE, ["SELECT", "INSERT", "UPDATE", *makes])]

    def held(self, connection: Connection) -> Mapping[int, int]:
        """Next offset of each partition that the target knows."""
        query = f"SELECT `partition`, next_offset FROM {_TABLE} WHERE egress = %s AND topic = %s"
        return dict(rows(connection, query, [self._egress, self._topic]))

    def move(self, connection: Connection, before: Mapping[int, int], after: Mapping[int, int]) -> None:
        """Set these positions, whose values `before` this process left; absent ones must still be absent.

        A second process waits here for the first one's end and then finds its rows. Raises `PositionMoved`.
        """
        held = self._locked(connection, sorted(after))
        moved = [each for each in after if held.get(each) != before.get(each)]
        if moved:
            raise position_moved(POSITIONS_TABLE, self._topic, moved)
        # Those that are there are locked; those that are not must be new, whoever else makes them now.
        known = {each: after[each] for each in after if each in held}
        try:
            self._insert(connection, {each: after[each] for each in after if each not in held})
        except pymysql.IntegrityError as error:
            if error.args[0] != _DUPLICATE:
                raise
            raise position_moved(POSITIONS_TABLE, self._topic, sorted(after.keys() - known.keys())) from error
        self._update(connection, known)

    def _locked(self, connection: Connection, partitions: Sequence[int]) -> Mapping[int, int]:
        """Those of these partitions, once nobody else is writing them; tasks of other partitions do not wait."""
        if not partitions:
            return {}
        query = f"SELECT `partition`, next_offset FROM {_TABLE} WHERE egress = %s AND topic = %s AND `partition` IN"
        marks = ", ".join(["%s"] * len(partitions))
        return dict(rows(connection, f"{query} ({marks}) FOR UPDATE", [self._egress, self._topic, *partitions]))

    def _insert(self, connection: Connection, positions: Mapping[int, int]) -> None:
        if positions:
            places = ", ".join(["(%s, %s, %s, %s)"] * len(positions))
            values = [part for each in positions.items() for part in (self._egress, self._topic, *each)]
            rows(connection, f"INSERT INTO {_TABLE} (egress, topic, `partition`, next_offset) VALUES {places}", values)

    def _update(self, connection: Connection, positions: Mapping[int, int]) -> None:
        """Not `ON DUPLICATE KEY UPDATE`: MySQL gives up the only way to name the new row that MariaDB has too."""
        if positions:
            offsets = " ".join(["WHEN %s THEN %s"] * len(positions))
            marks = ", ".join(["%s"] * len(positions))
            values = [*(part for each in positions.items() for part in each), self._egress, self._topic, *positions]
            query = f"UPDATE {_TABLE} SET next_offset = CASE `partition` {offsets} END"
            rows(connection, f"{query} WHERE egress = %s AND topic = %s AND `partition` IN ({marks})", values)
