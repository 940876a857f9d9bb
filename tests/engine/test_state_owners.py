"""State that no step of the pipeline owns: renamed and removed steps, and steps that share a made-up name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import headrace as hr
from headrace.contracts.registry_memory import MemoryRegistry
from headrace.engine.operator import SYSTEM_COLUMNS
from headrace.engine.records_in import RowsOfAnotherForm
from headrace.engine.repartition import STAYING, Marks, encode
from headrace.engine.state_owners import StateWithoutStep
from headrace.engine.state_restore import StateMeansAnother
from headrace.flow.compile import compile_pipeline
from headrace.log.embedded import EmbeddedLog
from tests.engine.harness import Harness, raw
from tests.engine.test_state_restore import CALLS, calls

Run = Callable[..., Harness]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Runs one pipeline after another, all called `shop`, over twenty more calls each."""
    with closing(EmbeddedLog(tmp_path / "log.db")) as log:
        registry, published = MemoryRegistry(), [0]

        def run(function: Callable[[], Any]) -> Harness:
            compiled = compile_pipeline(hr.pipeline(name="shop")(function), {"calls": CALLS})
            harness = Harness(log, registry, [CALLS], compiled, partitions=2)
            harness.publish("calls", calls(published[0], 20))
            published[0] += 20
            harness.run_until_caught_up()
            return harness

        yield run


def by_caller(name: str | None = None, **aggregates: Any) -> Callable[[], Any]:
    """Calls by caller, under a name of the step's own."""

    def shop() -> Any:
        table = hr.stream("calls").group_by("caller").agg(**(aggregates or {"n": hr.count()}))
        return (table if name is None else table.named(name)).to("out")

    return shop


def latest(harness: Harness) -> dict[str, int]:
    return {row["caller"]: row["n"] for row in harness.rows("out")}


def test_a_renamed_step_is_refused_and_found_again(run: Run) -> None:
    """A step under another name would begin without its state: the worker stops, names both steps, and goes on with
    the old state once the name is back."""
    run(by_caller())
    with pytest.raises(
        StateWithoutStep, match=r"step 'aggregate_caller', which pipeline 'shop' has no more"
    ) as stopped:
        run(by_caller("totals"))
    assert ".named('aggregate_caller') behind that step" in str(stopped.value.cure)
    assert set(latest(run(by_caller())).values()) == {6}


def test_a_removed_step_is_refused(run: Run) -> None:
    """Its state is not left behind in silence."""
    run(by_caller())

    def shop() -> Any:
        return hr.stream("calls").filter(hr.col("seconds") > 1).to("long")

    with pytest.raises(StateWithoutStep, match="aggregate_caller"):
        run(shop)


def test_edits_elsewhere_keep_state(run: Run) -> None:
    """Steps before, behind and beside a stateful step may change; it goes on where it was."""
    run(by_caller())

    def shop() -> Any:
        stream = hr.stream("calls").filter(hr.col("seconds") >= 0).with_columns(minutes=hr.col("seconds") / 60)
        stream.group_by("caller").window(hr.tumbling("1h")).agg(m=hr.mean("minutes")).named("hourly").to("hourly")
        return stream.group_by("caller").agg(n=hr.count()).filter(hr.col("n") > 0).to("out")

    assert set(latest(run(shop)).values()) == {4}


def test_numbered_steps_never_swap_state(run: Run) -> None:
    """A step put before an equal one takes its made-up name, but not its state."""

    def shop() -> Any:
        return hr.stream("calls").group_by("caller").agg(n=hr.count()).to("out")

    def edited() -> Any:
        long = hr.stream("calls").filter(hr.col("seconds") > 1)
        long.group_by("caller").agg(n=hr.count()).to("long")
        return hr.stream("calls").group_by("caller").agg(n=hr.count()).to("out")

    run(shop)
    with pytest.raises(StateMeansAnother, match="aggregate_caller"):
        run(edited)


def test_a_name_of_its_own_tells_equal_steps_apart(run: Run) -> None:
    """The cure: the old step keeps its name and its state, whatever stands before it."""

    def shop() -> Any:
        return hr.stream("calls").group_by("caller").agg(n=hr.count()).to("out")

    def edited() -> Any:
        long = hr.stream("calls").filter(hr.col("seconds") > 1)
        long.group_by("caller").agg(n=hr.count()).named("long_calls").to("long")
        return hr.stream("calls").group_by("caller").agg(n=hr.count()).named("aggregate_caller").to("out")

    run(shop)
    assert set(latest(run(edited)).values()) == {4}


def test_a_changed_meaning_is_refused(run: Run) -> None:
    """Another aggregate under the same name: the step and the ways out are named."""
    run(by_caller())
    with pytest.raises(StateMeansAnother, match="step 'aggregate_caller'") as stopped:
        run(by_caller(n=hr.count(), longest=hr.max("seconds")))
    assert "headrace reset shop --step aggregate_caller" in str(stopped.value.cure)


def test_rows_between_steps_are_not_taken_for_others(run: Run) -> None:
    """Rows that the pipeline wrote for itself before it was changed stop it by name, and are not misread."""

    def shop() -> Any:
        calls = hr.stream("calls").with_columns(whole=hr.col("seconds").cast(pl.Int64))
        return calls.rekey("whole").named("by_second").filter(hr.col("whole") >= 0).to("out")

    harness = run(shop)
    old = pl.DataFrame({"whole": [1], "gone": ["x"]}, schema={"whole": pl.Int64, "gone": pl.String})
    system = {name: dtype for name, dtype in SYSTEM_COLUMNS.items() if name not in STAYING}
    old = old.with_columns(pl.lit(None, dtype).alias(name) for name, dtype in system.items())
    (message,) = encode(old, Marks())
    harness.produce(raw("shop.by_second.repartition", [message]))
    with pytest.raises(RowsOfAnotherForm, match=r"shop\.by_second\.repartition\[0\]@\d+: .* gone"):
        harness.run_until_caught_up()
