"""The tables of the log file.

- Offsets of a partition are contiguous when written; `partitions.end_offset` is the only counter of them.
- A segment is one blob of records of one partition. Its bytes are a row of `blobs`, so that questions about
  offsets, sizes and times never read them.
- `topic_id` is never used twice.
- Rows of `staged` belong to an open transaction and are invisible to readers.
"""

from __future__ import annotations

import sqlite3

APPLICATION_ID = 0x48454144
SCHEMA_VERSION = 1
PAGE_BYTES = 8192
"""Measured: twice the write rate of 4 KiB pages for big commits; 16 KiB pages slow down small ones."""

_TABLES = """
CREATE TABLE counters (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE topics (
    topic_id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    identity TEXT NOT NULL,
    partitions INTEGER NOT NULL,
    config TEXT NOT NULL
);

CREATE TABLE deleted_topics (
    topic_id INTEGER PRIMARY KEY
);

CREATE TABLE partitions (
    topic_id INTEGER NOT NULL,
    partition INTEGER NOT NULL,
    start_offset INTEGER NOT NULL DEFAULT 0,
    end_offset INTEGER NOT NULL DEFAULT 0,
    appends INTEGER NOT NULL DEFAULT 0,
    clean_offset INTEGER NOT NULL DEFAULT 0,
    window_end INTEGER NOT NULL DEFAULT 0,
    window_next INTEGER NOT NULL DEFAULT 0,
    tombstone_offset INTEGER NOT NULL DEFAULT 0,
    tombstone_ms INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (topic_id, partition)
) WITHOUT ROWID;

CREATE TABLE segments (
    topic_id INTEGER NOT NULL,
    partition INTEGER NOT NULL,
    last_offset INTEGER NOT NULL,
    base_offset INTEGER NOT NULL,
    records INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    max_timestamp_ms INTEGER NOT NULL,
    appended_ms INTEGER NOT NULL,
    layout INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    blob_id INTEGER NOT NULL,
    PRIMARY KEY (topic_id, partition, last_offset)
) WITHOUT ROWID;

CREATE TABLE blobs (
    blob_id INTEGER PRIMARY KEY,
    data BLOB NOT NULL
);

CREATE TABLE producers (
    transactional_id TEXT PRIMARY KEY,
    epoch INTEGER NOT NULL,
    commits INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE staged (
    transactional_id TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    topic_id INTEGER NOT NULL,
    partition INTEGER NOT NULL,
    records INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    max_timestamp_ms INTEGER NOT NULL,
    layout INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    blob_id INTEGER NOT NULL,
    staged_ms INTEGER NOT NULL,
    PRIMARY KEY (transactional_id, sequence)
) WITHOUT ROWID;

CREATE TABLE groups (
    group_id TEXT PRIMARY KEY,
    generation INTEGER NOT NULL,
    version INTEGER NOT NULL,
    catalog INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE members (
    group_id TEXT NOT NULL,
    member_id TEXT NOT NULL,
    joined INTEGER NOT NULL,
    topics TEXT NOT NULL,
    session_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL,
    PRIMARY KEY (group_id, member_id)
) WITHOUT ROWID;

CREATE TABLE ownership (
    group_id TEXT NOT NULL,
    topic_id INTEGER NOT NULL,
    partition INTEGER NOT NULL,
    owner TEXT,
    claim INTEGER NOT NULL DEFAULT 0,
    target TEXT,
    PRIMARY KEY (group_id, topic_id, partition)
) WITHOUT ROWID;

CREATE TABLE group_offsets (
    group_id TEXT NOT NULL,
    topic_id INTEGER NOT NULL,
    partition INTEGER NOT NULL,
    next_offset INTEGER NOT NULL,
    metadata TEXT NOT NULL,
    PRIMARY KEY (group_id, topic_id, partition)
) WITHOUT ROWID;
"""

_COUNTERS = ("catalog", "claim", "join", "retention_ms")


def create(connection: sqlite3.Connection) -> None:
    """Make all tables, inside the caller's transaction."""
    for statement in filter(str.strip, _TABLES.split(";")):
        connection.execute(statement)
    connection.executemany("INSERT INTO counters VALUES (?, 0)", [(name,) for name in _COUNTERS])
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def advance(connection: sqlite3.Connection, counter: str) -> int:
    """Count up and return the new value, inside the caller's transaction."""
    assert counter in _COUNTERS
    row = connection.execute(
        "UPDATE counters SET value = value + 1 WHERE name = ? RETURNING value", (counter,)
    ).fetchone()
    return int(row[0])
