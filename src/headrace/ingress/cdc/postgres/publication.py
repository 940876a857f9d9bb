"""What headrace makes in a PostgreSQL database, and what it looks at before it relies on it.

Owns the publication and the slot of one ingress, both named `headrace_<workspace>_<ingress>`, and the guards.

- The publication is there before the slot: the server looks publications up as they were when a change was made.
- A slot that nobody reads keeps the server's log for ever unless the server has a limit; without one nothing begins.
- A slot may only be gone on from where the log says that it was read to; anything else has a gap, and stops.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from headrace.errors import Where
from headrace.ingress.cdc.changes import SourceLog
from headrace.ingress.cdc.errors import (
    CaptureMissing,
    PositionLost,
    SlotInUse,
    SlotLost,
    SourceInvalid,
    SourceUnguarded,
)
from headrace.ingress.cdc.postgres.connection import Connection, translated
from headrace.ingress.cdc.postgres.messages import lsn_number, lsn_text
from headrace.ingress.cdc.postgres.position import PostgresPosition
from headrace.ingress.cdc.postgres.tables import SourceTable, quoted

VERSION_MIN = 140_000
"""PostgreSQL 14: messages in the stream, which heartbeats are."""
NAME_CHARACTERS_MAX = 63
AGAIN = "raise `generation` in the ingress file: its snapshots are then taken again"


@dataclass(frozen=True, slots=True)
class Slot:
    """A replication slot as it stands."""

    confirmed_lsn: int
    wal_status: str
    active_pid: int | None
    reader: str
    """Who that is, in words; empty without one."""
    log: SourceLog


def object_name(workspace: str, ingress: str) -> str:
    """Of publication and slot: what both allow, and no other ingress's."""
    plain = re.sub(r"[^a-z0-9_]", "_", f"headrace_{workspace}_{ingress}".lower())
    if plain == f"headrace_{workspace}_{ingress}" and len(plain) <= NAME_CHARACTERS_MAX:
        return plain
    digest = hashlib.sha256(f"{workspace}.{ingress}".encode()).hexdigest()[:8]
    return f"{plain[: NAME_CHARACTERS_MAX - 9]}_{digest}"


def check_server(connection: Connection, *, unlimited_wal: bool, where: Where | None = None) -> None:
    """Raises `SourceInvalid`, `SourceUnguarded`."""
    with translated(where):
        settings: dict[str, str] = dict(
            connection.execute(
                "SELECT name, setting FROM pg_settings WHERE name IN"
                " ('wal_level', 'max_slot_wal_keep_size', 'server_version_num', 'server_encoding')"
            ).fetchall()
        )
        may = connection.execute(
            "SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user"
        ).fetchone()
    if int(settings["server_version_num"]) < VERSION_MIN:
        raise SourceInvalid("the server is older than PostgreSQL 14", where=where, cure="read from a newer server")
    if settings["wal_level"] != "logical":
        raise SourceInvalid(
            f"wal_level is {settings['wal_level']!r}",
            where=where,
            cure="ALTER SYSTEM SET wal_level = 'logical', and restart the server",
        )
    if may is None or not may[0]:
        raise SourceInvalid(
            "the user may not replicate", where=where, cure="ALTER ROLE ... REPLICATION, by a superuser"
        )
    if settings["max_slot_wal_keep_size"] == "-1" and not unlimited_wal:
        raise SourceUnguarded(
            "max_slot_wal_keep_size sets no limit: while this ingress does not run, the server keeps its whole log",
            where=where,
            cure="ALTER SYSTEM SET max_slot_wal_keep_size = '10GB' (what its disk can spare) and reload, or write"
            " `unlimited_wal: true`",
        )


def published_tables(connection: Connection, publication: str) -> set[tuple[str, str]] | None:
    """Schema and name of each; None without the publication."""
    with translated():
        if connection.execute("SELECT 1 FROM pg_publication WHERE pubname = %s", (publication,)).fetchone() is None:
            return None
        rows = connection.execute(
            "SELECT n.nspname, c.relname FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid"
            " JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE p.pubname = %s",
            (publication,),
        ).fetchall()
    return {(schema, name) for schema, name in rows}


def unpublished(connection: Connection, publication: str, tables: Mapping[str, SourceTable]) -> list[str]:
    """Tables that the publication does not have."""
    there = published_tables(connection, publication) or set()
    return [name for name, table in tables.items() if (table.schema, table.name) not in there]


def check_published(
    connection: Connection, publication: str, tables: Mapping[str, SourceTable], *, where: Where | None = None
) -> None:
    """Raises `CaptureMissing`."""
    missing = unpublished(connection, publication, tables)
    if missing:
        raise CaptureMissing(
            f"table {missing[0]!r} is not in the publication {publication!r}",
            where=where,
            cure="run `headrace apply`: it adds the table, and a table that was made anew is read again",
        )


def publish(connection: Connection, publication: str, tables: Mapping[str, SourceTable]) -> list[str]:
    """Make or mend the publication; returns the tables that were added."""
    there = published_tables(connection, publication)
    wanted = {(table.schema, table.name): name for name, table in tables.items()}
    added = [name for place, name in wanted.items() if place not in (there or ())]
    name = quoted(publication)
    with translated(), connection.transaction():
        if there is None:
            listed = ", ".join(tables[each].quoted for each in added)
            connection.execute(
                f"CREATE PUBLICATION {name} FOR TABLE {listed} WITH (publish_via_partition_root = true)".encode()
            )
            return added
        for each in added:
            connection.execute(f"ALTER PUBLICATION {name} ADD TABLE {tables[each].quoted}".encode())
        for schema, table in there - wanted.keys():
            connection.execute(f"ALTER PUBLICATION {name} DROP TABLE {quoted(schema)}.{quoted(table)}".encode())
    return added


def unpublish(connection: Connection, name: str) -> None:
    """Remove slot and publication. Raises `SlotInUse`."""
    drop_slot(connection, name)
    with translated():
        connection.execute(f"DROP PUBLICATION IF EXISTS {quoted(name)}".encode())


def find_slot(connection: Connection, slot: str) -> Slot | None:
    """The slot of this name, if any."""
    with translated():
        row = connection.execute(
            "SELECT confirmed_flush_lsn::text, coalesce(wal_status, 'reserved'), active_pid,"
            " coalesce(nullif(a.application_name, ''), 'an application') || ' of user ' || coalesce(a.usename, '?')"
            " || ' at ' || coalesce(host(a.client_addr), 'the server itself'),"
            " pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)::bigint,"
            " pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint, safe_wal_size"
            " FROM pg_replication_slots LEFT JOIN pg_stat_activity a ON a.pid = active_pid WHERE slot_name = %s",
            (slot,),
        ).fetchone()
    if row is None:
        return None
    confirmed, status, pid, reader, behind, kept, safe = row
    log = SourceLog(max(behind or 0, 0), max(kept or 0, 0), safe)
    return Slot(lsn_number(confirmed or "0/0"), status, pid, reader or "", log)


def drop_slot(connection: Connection, slot: str) -> None:
    """Remove it if it is there. Raises `SlotInUse`."""
    found = find_slot(connection, slot)
    if found is None:
        return
    _check_free(slot, found)
    with translated():
        connection.execute("SELECT pg_drop_replication_slot(%s)", (slot,))


def check_slot(connection: Connection, slot: str, position: PostgresPosition, *, where: Where | None = None) -> None:
    """Whether the slot can be gone on from `position`. Raises `SlotLost`, `PositionLost`, `SlotInUse`."""
    found = find_slot(connection, slot)
    if found is None:
        raise SlotLost(f"the replication slot {slot!r} is gone: changes were missed", where=where, cure=AGAIN)
    if found.wal_status == "lost":
        raise SlotLost(
            f"the server no longer keeps the log that the slot {slot!r} stands for: changes were missed",
            where=where,
            cure=f"{AGAIN}; max_slot_wal_keep_size is how much the server keeps",
        )
    if found.confirmed_lsn > position.lsn:
        raise PositionLost(
            f"the slot {slot!r} was read up to {lsn_text(found.confirmed_lsn)}, and the log has changes up to"
            f" {lsn_text(position.lsn)}: those between went elsewhere",
            where=where,
            cure=AGAIN,
        )
    _check_free(slot, found, where)


def _check_free(slot: str, found: Slot, where: Where | None = None) -> None:
    if found.active_pid is not None:
        raise SlotInUse(
            f"the replication slot {slot!r} is read by another connection: {found.reader or 'one that just ended'}"
            f" (process {found.active_pid} of the server)",
            where=where,
            cure="stop the other reader; one that was killed lets go within the server's wal_sender_timeout",
        )


def system_of(connection: Connection) -> str:
    """The identity of server and database."""
    with translated():
        row = connection.execute(
            "SELECT (SELECT system_identifier::text FROM pg_control_system()) || '/' || current_database()"
        ).fetchone()
    assert row is not None
    return str(row[0])
