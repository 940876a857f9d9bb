"""Records without a key: rows of event topics where the key columns are null too, and bad records elsewhere."""

from __future__ import annotations

from typing import Any

import pytest

import headrace as hr
from headrace.testing import Driver, contract

FIELDS = {"key": "string?", "value": "string"}


@hr.pipeline
def copy() -> Any:
    """Rows with their key."""
    return hr.stream("events").select("key", value=hr.col("value") + "!").to("copied", key_encoding="string")


@hr.pipeline
def counted() -> Any:
    """A step that needs a key."""
    return hr.stream("events").group_by("key").agg(rows=hr.count()).to("counted")


@hr.pipeline
def looked_at() -> Any:
    return hr.table("table").select("key", shout=hr.col("value")).to("seen")


EVENTS = contract("events", FIELDS, key="key", key_encoding="string", time="$timestamp")


def test_an_event_may_have_a_null_key() -> None:
    """It is written without a key, read as a row, and written without a key again."""
    with Driver(copy, contracts=[EVENTS]) as driver:
        driver.publish("events", [{"key": None, "value": "a"}, {"key": "k", "value": "b"}])
        assert [record.key for record in driver.records("events")] == [None, {"key": "k"}]
        assert driver.rows("copied") == [{"key": None, "value": "a!"}, {"key": "k", "value": "b!"}]
        assert [record.key for record in driver.records("copied")] == [None, {"key": "k"}]
        assert driver.dead_letters() == []


def test_a_step_that_needs_a_key_says_that_there_is_none() -> None:
    """Counted, and a dead letter."""
    with Driver(counted, contracts=[EVENTS]) as driver:
        driver.publish("events", [{"key": None, "value": "a"}, {"key": "k", "value": "b"}])
        assert driver.table("counted") == {"k": {"key": "k", "rows": 1}}
        assert [letter.code for letter in driver.dead_letters()] == ["process.null_key"]
        assert dict(driver.dropped) == {("aggregate_key", "null_key"): 1}


def test_a_record_without_the_key_of_its_row_is_bad() -> None:
    """As one with another key: its producer did not do what the contract says."""
    with Driver(copy, contracts=[EVENTS]) as driver:
        driver.publish("events", {"key": "k", "value": "b"})
        (record,) = driver._log.labelled("events")[0][0].value.to_pylist()
        driver.publish_bytes("events", None, record)
        driver.publish_bytes("events", b"other", record)
        assert [letter.code for letter in driver.dead_letters()] == ["decode.null_key", "decode.key_mismatch"]
        assert len(driver.rows("copied")) == 1


@pytest.mark.parametrize("value", [None, b"any"])
def test_a_table_needs_keys(value: bytes | None) -> None:
    """Rows and deletions without one are dead letters."""
    table = contract("table", FIELDS, key="key", key_encoding="string", kind="table")
    with Driver(looked_at, contracts=[table]) as driver:
        driver.publish_bytes("table", None, value)
        (letter,) = driver.dead_letters()
        assert letter.stage == "decode"
        assert driver.records("seen") == []
