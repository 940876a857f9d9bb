"""A commit's pass without rows: who has something to say then is asked, and nobody else is."""

from __future__ import annotations

from typing import Any

import pytest

import headrace as hr
from headrace import col
from headrace.contracts.avro import AvroSchema
from headrace.contracts.contract import Contract
from headrace.engine.subtopology import SubtopologyRunner
from headrace.flow.steps import MergeStep, RepartitionStep
from tests.engine.operators.plan_driver import PlanDriver


def contract(topic: str) -> Contract:
    fields = [{"name": name, "type": "string"} for name in ("a", "b")]
    return Contract(topic, AvroSchema.parse({"type": "record", "name": topic.capitalize(), "fields": fields}))


def nobody(*_: Any, **__: Any) -> None:
    """No row goes anywhere."""
    raise AssertionError("a row, of none")


def moved_twice() -> Any:
    both = hr.stream("one").rekey("a").merge(hr.stream("two").rekey("a"))
    return both.group_by("b").agg(n=hr.count()).to("counts")


def test_promises_of_moved_rows_go_on_without_rows() -> None:
    """Where rows of two topics are only moved on, time goes on as the slower of the two does: whoever reads what is
    moved learns it at the next commit, though no row came."""
    driver = PlanDriver(moved_twice, contract("one"), contract("two"))
    (runner,) = [each for each in driver.runners if any(isinstance(step, MergeStep) for step in each.steps)]
    (move,) = [step for step in runner.steps if isinstance(step, RepartitionStep)]
    runner.run({}, nobody)
    assert runner.closing[move.name] == {}
    slow, quick = driver.compiled.plan.subtopologies[runner.index].reads
    runner.repartition_clock |= {slow: {0: 10}, quick: {0: 20}}
    runner.run({}, nobody, flush=True)
    assert runner.closing[move.name] == {0: 10}


def test_rows_that_are_only_changed_cost_nothing_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """After its first pass no step of such a subtopology is looked at."""
    driver = PlanDriver(lambda: hr.stream("one").filter(col("a") == "x").to("some"), contract("one"))
    (runner,) = driver.runners
    runner.run({}, nobody, flush=True)
    monkeypatch.setattr(SubtopologyRunner, "_run_step", nobody)
    runner.run({}, nobody, flush=True)
