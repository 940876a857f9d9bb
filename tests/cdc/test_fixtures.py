"""Recorded records of Debezium's connectors, and records made by hand, come out as they should.

The recordings are of Debezium 3.6.3 on PostgreSQL 15 and on MariaDB 10.11 (its MySQL connector): one workload, with
every form of the records that the connector and its converters can be configured to write.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cdc.normalise import normalised

FOLDER = Path(__file__).parent / "fixtures"
NAMES = sorted(each.name.removesuffix(".jsonl") for each in FOLDER.glob("*.jsonl") if ".expected" not in each.name)
FORMS_OF_ONE_WORKLOAD = ["postgresql-avro", "postgresql-json"]
UNWRAPPED = [name for name in NAMES if name.startswith("unwrapped")]


def found(name: str) -> list[dict[str, Any]]:
    return list(normalised((FOLDER / f"{name}.jsonl").read_bytes()))


@pytest.mark.parametrize("name", NAMES)
def test_records_come_out_as_expected(name: str) -> None:
    """Every line of every fixture gives exactly the change, or the reason, that is written beside it."""
    expected = [json.loads(line) for line in (FOLDER / f"{name}.expected.jsonl").read_text().splitlines()]
    assert json.loads(json.dumps(found(name))) == expected


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("broken", "mongodb")])
def test_nothing_that_debezium_wrote_is_unreadable(name: str) -> None:
    """Whatever the real connectors wrote is a change, or is known to be something else."""
    assert [each for each in found(name) if each["kind"] == "unreadable"] == []


def changes(name: str) -> list[dict[str, Any]]:
    return [each for each in found(name) if each["kind"] in ("change", "message")]


def test_avro_and_json_say_the_same() -> None:
    """One workload through Avro and through JSON with schemas gives the same changes, value by value."""
    parts = ("operation", "table", "key", "before", "after", "unchanged", "snapshot", "moved_to", "moved_from")
    json_changes, avro_changes = changes("postgresql-json-schema"), changes("postgresql-avro")
    assert len(json_changes) > 25
    for one, other in zip(json_changes, avro_changes, strict=True):
        assert {part: one.get(part) for part in parts} == {part: other.get(part) for part in parts}


def test_every_connectors_records_stand_in_order() -> None:
    """The order of the positions of each table is the order in which the connector wrote them."""
    for name in ("postgresql-json-schema", "postgresql-avro", "mariadb-json-schema"):
        orders: dict[str, list[list[int]]] = {}
        for each in changes(name):
            if each["snapshot"] in ("false", "incremental"):
                orders.setdefault(each["table"] or "", []).append(each["position"]["order"])
        for table, found_orders in orders.items():
            assert found_orders == sorted(found_orders), (name, table)


def final_rows(name: str) -> dict[tuple[str, str], Any]:
    """The rows that are left when all changes are applied by key; unchanged columns stay as they were."""
    rows: dict[tuple[str, str], Any] = {}
    for each in changes(name):
        place = (each["table"], json.dumps(each["key"], sort_keys=True))
        if each["table"] not in ("public.customers", "public.lines") or each["operation"] in ("t", "m"):
            continue
        if each["operation"] == "d":
            rows.pop(place, None)
        else:
            rows[place] = {**rows.get(place, {}), **each["after"]}
    return rows


@pytest.mark.parametrize("name", [name for name in UNWRAPPED if name != "unwrapped-drop"])
def test_unwrapped_topics_lead_to_the_same_rows(name: str) -> None:
    """Whatever way deletions are handled, the same rows are left as with envelopes; with `drop` deletions are lost."""
    assert final_rows(name) == final_rows("postgresql-json-schema")
    assert len(final_rows("unwrapped-drop")) > len(final_rows(name))


def test_as_a_program() -> None:
    """The program prints one line for each line, in order, and ends well on broken input."""
    path = FOLDER / "broken.jsonl"
    program = Path(__file__).parent / "normalise.py"
    done = subprocess.run([sys.executable, str(program), str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    given = [number for number, line in enumerate(path.read_bytes().split(b"\n"), 1) if line.strip()]
    assert [each["line"] for each in lines] == given
    assert all(each["code"] and each["reason"] for each in lines if each["kind"] not in ("change", "message"))
