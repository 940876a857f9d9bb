"""What headrace looks at in a server before it relies on it.

Owns the settings and rights that capture needs, the server's identity, and the places of its binary log.

- Nothing is made in the database: a MySQL server forgets its log by time, and nobody holds it.
- A position may only be gone on from on the server that it is of, while that has the log behind it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from pymysql.connections import Connection

from headrace.errors import Where
from headrace.ingress.cdc.changes import SourceLog
from headrace.ingress.cdc.errors import LogPurged, PositionLost, SourceInvalid
from headrace.ingress.cdc.mysql.connection import AGAIN, rows
from headrace.ingress.cdc.mysql.position import MysqlPosition, Place

MARIADB_MIN, MYSQL_MIN = (10, 5), (8, 0, 14)
"""The first that write the names of columns into the binary log."""
_WANTED = (("log_bin", "ON"), ("binlog_format", "ROW"), ("binlog_row_image", "FULL"), ("binlog_row_metadata", "FULL"))
_REFUSED = (
    ("log_bin_compress", "ON"),
    ("binlog_transaction_compression", "ON"),
    ("binlog_row_value_options", "PARTIAL_JSON"),
)
"""Forms of the log that are not read here."""
_OTHERS = ("server_uuid", "server_uid", "server_id", "hostname", "datadir", "gtid_mode", "binlog_checksum", "version")


@dataclass(frozen=True, slots=True)
class Server:
    """A server that may be read from."""

    is_mariadb: bool
    identity: str
    has_gtids: bool
    """Whether its transactions are numbered."""
    has_checksums: bool


def check_server(connection: Connection, *, where: Where | None = None) -> Server:
    """Raises `SourceInvalid`."""
    names = [name for name, _ in (*_WANTED, *_REFUSED)] + list(_OTHERS)
    listed = ", ".join(f"'{name}'" for name in names)
    found = {
        name.lower(): value
        for name, value in rows(connection, f"SHOW GLOBAL VARIABLES WHERE variable_name IN ({listed})")
    }
    version, is_mariadb = found["version"], "mariadb" in found["version"].lower()
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
    least = MARIADB_MIN if is_mariadb else MYSQL_MIN
    if numbers < least:
        raise SourceInvalid(
            f"the server is of version {version}", where=where, cure="read from MySQL 8.0.14, MariaDB 10.5 or newer"
        )
    for name, wanted in _WANTED:
        if found.get(name, "").upper() != wanted:
            cure = "start the server with --log-bin" if name == "log_bin" else f"SET GLOBAL {name} = '{wanted}'"
            more = ", and in the server's file; sessions that are open keep the old value until they end"
            raise SourceInvalid(
                f"{name} is {found.get(name, 'unknown')!r}, and capture needs {wanted!r}", where=where, cure=cure + more
            )
    for name, refused in _REFUSED:
        if refused in found.get(name, "").upper():
            off = "''" if refused == "PARTIAL_JSON" else "OFF"
            message = f"{name} is {found[name]!r}, a form of the binary log that is not read"
            raise SourceInvalid(message, where=where, cure=f"SET GLOBAL {name} = {off}, then raise `generation`")
    if found["server_id"] == "0":
        raise SourceInvalid(
            "server_id is 0, and the server lets nobody read its log", where=where, cure="set server_id"
        )
    identity = (
        found.get("server_uuid")
        or found.get("server_uid")
        or "@".join((found["server_id"], found["hostname"], found["datadir"]))
    )
    has_gtids = is_mariadb or found.get("gtid_mode", "OFF").upper() == "ON"
    return Server(is_mariadb, identity, has_gtids, found.get("binlog_checksum", "NONE").upper() != "NONE")


def check_rights(connection: Connection, server: Server, *, where: Where | None = None) -> None:
    """Whether the user may follow the log. Raises `SourceInvalid`."""
    granted = [str(row[0]).upper() for row in rows(connection, "SHOW GRANTS")]
    rights = {
        right.strip()
        for grant in granted
        if (found := re.match(r"GRANT (.*) ON \*\.\* TO ", grant)) is not None
        for right in found.group(1).split(",")
    }
    monitor = "BINLOG MONITOR" if server.is_mariadb else "REPLICATION CLIENT"
    wanted = [
        ("REPLICATION SLAVE", {"REPLICATION SLAVE"}),
        (monitor, {"BINLOG MONITOR", "REPLICATION CLIENT", "SUPER"}),
    ]
    if not server.is_mariadb:
        wanted.append(("RELOAD", {"RELOAD", "FLUSH_TABLES"}))
    missing = [] if "ALL PRIVILEGES" in rights else [name for name, any_of in wanted if not any_of & rights]
    if missing:
        raise SourceInvalid(
            f"the user has no right to {missing[0]}",
            where=where,
            cure=f"GRANT {', '.join(missing)} ON *.* TO ..., and SELECT on the tables",
        )


def open_moment(connection: Connection, server: Server) -> Place:
    """Begin a transaction of a moment of now on `connection`, and learn its place in the log.

    MariaDB tells the place itself. MySQL does not: there all commits wait for the blink in which both are asked for.
    """
    if server.is_mariadb:
        rows(connection, "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
        found: dict[str, str] = dict(_pairs(rows(connection, "SHOW STATUS LIKE 'binlog_snapshot_%'")))
        return Place.of(found["Binlog_snapshot_file"], int(found["Binlog_snapshot_position"]))
    rows(connection, "FLUSH TABLES WITH READ LOCK")
    try:
        rows(connection, "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
        return Place.of(*_status(connection)[:2])
    finally:
        rows(connection, "UNLOCK TABLES")


def beginning(connection: Connection, server: Server) -> tuple[Place, str]:
    """Where the log ends now, and the ids of the transactions up to there."""
    file, offset, gtids = _status(connection)
    place = Place.of(file, offset)
    if server.is_mariadb:
        return place, mariadb_gtids(connection, place) or ""
    return place, gtids.replace("\n", "") if server.has_gtids else ""


def _status(connection: Connection) -> tuple[str, int, str]:
    """File, offset and the ids of transactions."""
    try:
        (status,) = _texts(rows(connection, "SHOW BINARY LOG STATUS"))
    except SourceInvalid:  # Before MySQL 8.2, and of MariaDB.
        (status,) = _texts(rows(connection, "SHOW MASTER STATUS"))
    return status[0], int(status[1]), status[4] if len(status) > 4 else ""


def _pairs(found: list[tuple[Any, ...]]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in _texts(found)]


def _texts(found: list[tuple[Any, ...]]) -> list[tuple[str, ...]]:
    return [tuple(each.decode() if isinstance(each, bytes) else str(each) for each in row) for row in found]


def mariadb_gtids(connection: Connection, place: Place) -> str | None:
    """The ids of the last transactions at a place; None where there is no such place."""
    ((found,),) = rows(connection, f"SELECT BINLOG_GTID_POS('{place.file}', {place.offset})")
    return found.decode() if isinstance(found, bytes) else found


def binary_logs(connection: Connection) -> list[Place]:
    """The files of the log, each with its size, oldest first."""
    return [Place.of(row[0], int(row[1])) for row in rows(connection, "SHOW BINARY LOGS")]


def log_behind(logs: list[Place], place: Place) -> SourceLog:
    """What the server has of its log behind a place."""
    sizes = [each.offset for each in logs if each.number >= place.number]
    return SourceLog(max(sum(sizes) - place.offset, 0), sum(sizes), None)


def check_position(
    connection: Connection, server: Server, position: MysqlPosition, *, where: Where | None = None
) -> None:
    """Whether this server can be gone on with from `position`. Raises `PositionLost`, `LogPurged`."""
    if position.server != server.identity:
        raise PositionLost(
            f"the log says that server {position.server} was read, and this is {server.identity}: another server,"
            " whose binary log has other places",
            where=where,
            cure=f"name the right server, or {AGAIN}",
        )
    place, logs = position.place, binary_logs(connection)
    if not logs or place.number < logs[0].number:
        raise LogPurged(
            f"the server has deleted its binary log {place.file}, which was not read to its end: changes were missed",
            where=where,
            cure=f"{AGAIN}; how long logs are kept is `binlog_expire_logs_seconds`",
        )
    size = next((each.offset for each in logs if each.file == place.file), -1)
    if size < place.offset or not _has_read(connection, server, position):
        raise PositionLost(
            f"the server's binary log does not have the place {place} that was read: it was reset, or is an older copy",
            where=where,
            cure=f"restore the right database, or {AGAIN}",
        )


def _has_read(connection: Connection, server: Server, position: MysqlPosition) -> bool:
    """Whether the transactions up to the position are those that were read."""
    if not position.gtids:
        return True
    if server.is_mariadb:
        return _same(mariadb_gtids(connection, position.place), position.gtids)
    if not server.has_gtids:
        return True
    ((found,),) = rows(connection, "SELECT GTID_SUBSET(%s, @@global.gtid_executed)", (position.gtids,))
    return bool(found)


def _same(found: str | None, expected: str) -> bool:
    return found is not None and set(found.split(",")) == set(expected.split(","))
