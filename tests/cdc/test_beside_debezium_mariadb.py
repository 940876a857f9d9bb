"""headrace's capture of MariaDB beside Debezium's own engine, on one server, of one workload."""

from __future__ import annotations

import base64
import re
import struct
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.cdc.beside import SERVER, Change, both
from tests.cdc.beside_mariadb import TABLES, captured
from tests.ingress.mysql.till import Till

pytestmark = [pytest.mark.mariadb, pytest.mark.slow, pytest.mark.xdist_group("mariadb")]

BITS = {"bits": 12, "all_bits": 64}
TIMES = ("hour", "hour3", "hour0")
ENDS_IN_ZERO, MOVED_BY_A_BYTE = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a00", "00a0eebc-999c-0b4e-f8bb-6d6bb9bd380a"
EPOCH = "1970-01-01T00:00:00Z"


def comparable(change: Change, *, is_ours: bool) -> Change:
    """A change without what is known to differ; `docs/ingress.md` lists it."""
    if change["kind"] != "change":
        return {"code": change["code"]}
    is_read = change["operation"] == "r"
    found = {name: change[name] for name in ("operation", "key", "unchanged", "table")}
    found["source"] = {**change["source"], "connector": None}
    found["moved"] = change.get("moved_to"), change.get("moved_from")
    as_told = _as_theirs if is_ours else _as_it_is
    found["after"], found["before"] = (as_told(change[side], is_read=is_read) for side in ("after", "before"))
    position = change["position"]
    found["position"] = {name: position.get(name) for name in ("source", "order", "file", "pos", "row", "server_id")}
    if not is_read:
        found |= {"gtid": position["gtid"], "ts_ms": position["ts_ms"], "transaction": change["transaction"]}
    return found


def _as_theirs(row: Change | None, *, is_read: bool) -> Change | None:
    """What Debezium makes of a row that headrace tells so."""
    if row is None:
        return None
    found = {name: value for name, value in row.items() if name != "email"}  # Dropped on the way.
    for name, length in BITS.items():
        if found.get(name) is not None:
            found[name] = f"{int.from_bytes(base64.b64decode(found[name]), 'little'):0{length}b}"
    if found.get("tastes") is not None:
        found["tastes"] = [each for each in found["tastes"].split(",") if each]
    if found.get("vintage") == 0:
        found["vintage"] = 2000 if is_read else 1900
    if found.get("identity_") == ENDS_IN_ZERO and not is_read:
        found["identity_"] = MOVED_BY_A_BYTE
    if found.get("id") in (5, 105) and "moment" in found:
        assert found["moment"] is None
        found["moment"] = None if is_read else EPOCH
    return found


def _as_it_is(row: Change | None, *, is_read: bool) -> Change | None:
    """A row of Debezium's, its values in headrace's forms."""
    if row is None:
        return None
    found = {name: value for name, value in row.items() if name != "email"}
    for name in TIMES:
        if found.get(name) is not None:
            found[name] = _micros(found[name])
    if found.get("single") is not None:  # JSON has it in its own few digits.
        found["single"] = struct.unpack("<f", struct.pack("<f", found["single"]))[0]
    if found.get("place") is not None:
        found["place"] = {name: found["place"][name] for name in ("wkb", "srid")}  # It adds the coordinates.
    return found


def _micros(text: str) -> int:
    """Microseconds of a time of day, or of a duration in seconds."""
    if duration := re.fullmatch(r"PT(-?[\d.]+)S", text):
        return int(Decimal(duration.group(1)) * 1_000_000)
    hours, minutes, seconds = text.split(":")
    return int((int(hours) * 3_600 + int(minutes) * 60 + Decimal(seconds)) * 1_000_000)


def test_one_workload_gives_the_same_changes(tmp_path: Path, mariadb_url: str) -> None:
    """Every type that Debezium can read, changed keys, a truncate, columns that come, go, move and change, transactions
    that are large, and aborted ones: the same changes of each table, in the same order, at the same places."""
    with closing(Till(tmp_path, mariadb_url, table=None)) as till:
        ours, theirs = both(lambda: captured(till, tmp_path))
        assert till.records(f"{SERVER}.dlq") == []
    for table in TABLES:
        assert len(ours[table]) == len(theirs[table])
        for one, other in zip(ours[table], theirs[table], strict=True):
            assert comparable(one, is_ours=True) == comparable(other, is_ours=False)
    operations = {change.get("operation") for changes in ours.values() for change in changes}
    assert operations == {"r", "c", "u", "d", "t", None}
    assert sum(map(len, ours.values())) > 2_000


def test_the_forms_that_are_compared() -> None:
    """Times of day and durations are the same number of microseconds."""
    told: dict[str, Any] = {"23:59:59.000001": 86_399_000_001, "PT-0.5S": -500_000, "24:00:00": 86_400_000_000}
    assert {text: _micros(text) for text in told} == told
