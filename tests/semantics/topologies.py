"""From a case to the pipeline that it describes, through the public API alone.

Every field of README.md has its place here. Inputs have the columns `key` and `value`, texts or null; their event time
is the record's timestamp.
"""

from __future__ import annotations

import re
from typing import Any

import polars as pl

import headrace as hr
from headrace import col, lit, when
from headrace.contracts.contract import Contract
from headrace.flow.pipeline import Pipeline
from headrace.testing import contract

Case = dict[str, Any]

LONG_MS = 10 * 365 * 24 * 60 * 60 * 1000
"""History of a versioned table where the case does not say."""
GROUP = "group"


def kind_of(case: Case) -> str:
    """join or aggregate"""
    return case.get("kind") or ("join" if "join_type" in case else "aggregate")


def is_table(case: Case) -> bool:
    """Whether the result of a join is a table."""
    return bool(case.get("output", "table" if case.get("join_type", "").startswith("table_") else "stream") == "table")


def is_final(case: Case) -> bool:
    """Whether each window's result comes once."""
    return case.get("emit") == "on_window_close" or _suppress(case).get("type") == "until_window_closes"


def topic_of(case: Case, record: dict[str, Any]) -> str:
    """Where an input record goes. Both sides of a self join are the left topic."""
    if kind_of(case) == "aggregate":
        return "input"
    return "left" if case["join_type"] == "stream_self_inner" else record["side"]


def counts_null_values(case: Case) -> bool:
    """Whether a null value of a stream is aggregated. Elsewhere Kafka Streams drops it, before it moves stream time."""
    return (case.get("window") or {}).get("type") in ("tumbling", "hopping", "session")


def contracts_of(case: Case) -> list[Contract]:
    """The topics that the case reads."""
    if kind_of(case) == "aggregate":
        return [_contract("input", is_table=case.get("input_kind") == "table")]
    left_is_table = case["join_type"].startswith("table_")
    right_is_table = not case["join_type"].startswith("stream_stream") and case["join_type"] != "stream_self_inner"
    return [_contract("left", is_table=left_is_table), _contract("right", is_table=right_is_table)]


def _contract(topic: str, *, is_table: bool) -> Contract:
    return contract(
        topic,
        {"key": "string?", "value": "string?"},
        key="key",
        time="$timestamp",
        key_encoding="string",
        partitions=1,
        kind="table" if is_table else "event",
    )


def pipeline_of(case: Case) -> Pipeline:
    """The case's topology, writing to `output`."""

    @hr.pipeline(name="case", owner="tests")
    def pipeline() -> Any:
        if kind_of(case) == "join":
            return _joined(case).to("output", key_encoding="string")
        return _aggregated(case)

    return pipeline


def ms(value: int) -> str:
    return f"{value}ms"


# Joins


def _joined(case: Case) -> Any:
    then = case.get("then") or []
    rows, right = _left(case), _right(case)
    for join_type in [case["join_type"], *([then] if isinstance(then, str) else then)]:
        rows = _join(case, rows, right, join_type)
    return rows


def _left(case: Case) -> Any:
    if case["join_type"].startswith("table_"):
        return _table(case, "left")
    return hr.stream("left")


def _right(case: Case) -> Any:
    join_type = case["join_type"]
    if join_type == "stream_self_inner":
        return None
    if join_type.startswith("stream_stream"):
        return hr.stream("right")
    if join_type.startswith("stream_globaltable"):
        return hr.broadcast("right")
    return _table(case, "right")


def _table(case: Case, side: str) -> Any:
    if case.get(f"{side}_store") != "versioned":
        return hr.table(side)
    return hr.table(side, history=ms(max(1, case.get("history_retention_ms", LONG_MS))))


def _join(case: Case, left: Any, right: Any, join_type: str) -> Any:
    kind, how = join_type.rsplit("_", 1)
    joins = {
        "stream_stream": _stream_stream,
        "stream_self": _stream_stream,
        "stream_table": _stream_table,
        "stream_globaltable": _stream_broadcast,
        "table_table": _table_table,
        "table_table_fk": _foreign_key,
    }
    joined = joins[kind](case, left, left if kind == "stream_self" else right, how)
    return joined.select("key", value=_template(case["joiner"]))


def _stream_stream(case: Case, left: Any, right: Any, how: str) -> Any:
    before, after = case.get("before_ms", case.get("window_ms", 0)), case.get("after_ms", case.get("window_ms", 0))
    grace = case.get("grace_ms", 0)
    return left.join(right, on="key", how=how, before=ms(before), after=ms(after), grace=ms(grace))


def _stream_table(case: Case, left: Any, right: Any, how: str) -> Any:
    options: dict[str, Any] = {"as_of": True} if case.get("right_store") == "versioned" else {}
    if case.get("table_join_grace_ms") is not None:
        options |= {"as_of": True, "grace": ms(case["table_join_grace_ms"])}
    return left.join(right, on="key", how=how, **options)


def _stream_broadcast(case: Case, left: Any, right: Any, how: str) -> Any:
    if not case.get("key_mapper"):
        return left.join(right, on="key", how=how)
    second = col("value").str.split(",").list.get(1, null_on_oob=True)
    return left.with_columns(mapped=second).join(right, left_on="mapped", how=how)


def _table_table(case: Case, left: Any, right: Any, how: str) -> Any:
    return left.join(right, how=how)


def _foreign_key(case: Case, left: Any, right: Any, how: str) -> Any:
    after_pipe = col("value").str.extract(r"\|(.*)$", 1)
    foreign = {
        "after_pipe": after_pipe,
        "after_pipe_or_null": when(after_pipe == "returnNull").then(None).otherwise(after_pipe),
        "null": lit(None, pl.String),
    }[case.get("fk", "after_pipe") or "null"]
    return left.with_columns(foreign=foreign).join(right, left_on="foreign", how=how)


def _template(joiner: str) -> pl.Expr:
    sides = {"{l}": col("value").fill_null("null"), "{r}": col("value_right").fill_null("null")}
    parts = [part for part in re.split(r"(\{[lr]\})", joiner) if part]
    return pl.concat_str([sides.get(part, lit(part)) for part in parts])


# Aggregates


def _aggregated(case: Case) -> Any:
    rows = hr.table("input") if case.get("input_kind") == "table" else hr.stream("input")
    of_table, window = case.get("input_kind") == "table", case.get("window")
    grouped = rows.with_columns(**{GROUP: _group(case)}).group_by(GROUP) if of_table else rows.group_by("key")
    options = {"keep_empty": True} if of_table else {}
    if window is not None:
        grouped = grouped.window(_window(window))
    table = grouped.agg(value=_aggregate(case), **options)
    suppress = _suppress(case)
    if suppress:
        return table.suppress(_until(suppress)).to("output")
    return table.to("output", emit="final" if is_final(case) else "updates")


def _group(case: Case) -> pl.Expr:
    value, key = col("value"), col("key")
    nothing = ["null", "NULL"]
    groups = {
        "value": value,
        "value_to_value": when(value.is_in(nothing) | key.is_in(nothing)).then(None).otherwise(value),
        "key": key,
        "first_char_of_key": key.str.slice(0, 1),
    }
    return groups[case.get("group_by") or "key"]


def _window(window: dict[str, Any]) -> Any:
    grace = ms(window.get("grace_ms", 0))
    match window["type"]:
        case "tumbling":
            return hr.tumbling(ms(window["size_ms"]), grace=grace)
        case "hopping":
            return hr.hopping(ms(window["size_ms"]), ms(window["advance_ms"]), grace=grace)
        case "sliding":
            return hr.sliding(ms(window["time_difference_ms"]), grace=grace)
        case "session":
            return hr.session(ms(window["gap_ms"]), grace=grace)
    raise ValueError(f"window type {window['type']!r}")


def _suppress(case: Case) -> dict[str, Any]:
    return case.get("suppress") or {}


def _until(suppress: dict[str, Any]) -> Any:
    if suppress["type"] == "until_window_closes":
        return hr.until_closed()
    if suppress["type"] != "until_time_limit":
        raise ValueError(f"suppress type {suppress['type']!r}")
    limit_ms, rows_max = suppress.get("time_limit_ms"), suppress.get("max_records")
    if limit_ms is None:
        return hr.at_most(rows_max)
    return hr.until(ms(limit_ms)) if rows_max is None else hr.until(ms(limit_ms), rows_max=rows_max)


def _aggregate(case: Case) -> Any:
    op = case["op"]
    if op == "count":
        return hr.count()
    if op == "reduce":
        return Reduce("value")
    if op == "concat" and (case.get("window") or {}).get("type") == "session":
        return SessionConcat("value", case.get("init", ""))
    return {"concat": Concat, "concat_sub": ConcatSub, "concat_remove": ConcatRemove}[op]("value", case.get("init", ""))


def text(value: str | None) -> str:
    return "null" if value is None else value


class Reduce(hr.Aggregator):
    """a + "+" + b, beginning with the first value."""

    type = "string?"

    def init(self) -> str | None:
        return None

    def add(self, state: str | None, value: str | None) -> str | None:
        return value if state is None else f"{state}+{text(value)}"

    def merge(self, left: str | None, right: str | None) -> str | None:
        if left is None or right is None:
            return right if left is None else left
        return f"{left}+{right}"

    def result(self, state: str | None) -> str | None:
        return state

    def subtract(self, state: str | None, value: str | None) -> str | None:
        return f"{text(state)}-{text(value)}"


class Concat(hr.Aggregator):
    """What there is + "+" + value, beginning with `first`."""

    type = "string?"

    def __init__(self, column: str, first: str) -> None:
        super().__init__(column)
        self.first = first

    def init(self) -> str | None:
        return self.first

    def add(self, state: str | None, value: str | None) -> str | None:
        return f"{text(state)}+{text(value)}"

    def merge(self, left: str | None, right: str | None) -> str | None:
        return f"{text(left)}+{text(right)}"

    def result(self, state: str | None) -> str | None:
        return state


class SessionConcat(Concat):
    """Kafka Streams begins anew with every record: it merges the sessions that the record meets into an initial state,
    then adds the record."""

    def init(self) -> str | None:
        return None

    def add(self, state: str | None, value: str | None) -> str | None:
        before = self.first if state is None else f"{self.first}+{state}"
        return f"{before}+{text(value)}"

    def merge(self, left: str | None, right: str | None) -> str | None:
        if left is None or right is None:
            return right if left is None else left
        return f"{left}+{right}"


class ConcatSub(Concat):
    """Taking a value back appends "-" + value."""

    def subtract(self, state: str | None, value: str | None) -> str | None:
        return f"{text(state)}-{text(value)}"


class ConcatRemove(Concat):
    """Adding appends the value, taking it back removes its first occurrence."""

    def add(self, state: str | None, value: str | None) -> str | None:
        return f"{text(state)}{text(value)}"

    def subtract(self, state: str | None, value: str | None) -> str | None:
        return text(state).replace(text(value), "", 1)
