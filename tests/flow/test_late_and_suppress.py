"""Sliding windows, `late=` and `.late()`, `.suppress(...)`: the steps they make and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import headrace as hr
from headrace import col
from headrace.flow.errors import NameInvalid, OptionInvalid, StepRefused
from headrace.flow.steps import AggregateStep, LateStep, SuppressStep
from headrace.flow.values import Emit, Window, WindowKind
from tests.flow.samples import kinds, only, output, plan_of, types


def test_a_sliding_window_is_a_difference_and_a_grace() -> None:
    """Key of the result: group and window start."""
    assert hr.sliding("5m", grace="1m") == Window(kind=WindowKind.SLIDING, size_ms=300_000, grace_ms=60_000)
    plan = plan_of(lambda: hr.stream("orders").group_by("status").window(hr.sliding("5m")).agg(n=hr.count()).to("out"))
    assert only(plan, "aggregate").key == ("status", "window_start")
    with pytest.raises(OptionInvalid, match="difference"):
        hr.sliding("-1s")


def _late(late: Any, *, group: str = "status") -> Callable[[], Any]:
    def shop() -> Any:
        counts = hr.stream("orders").group_by(group).window(hr.tumbling("1h"), late=late).agg(n=hr.count())
        sinks = [counts.to("counts")]
        if late == "stream":
            sinks.append(counts.late().filter(col("amount") > 0).to("too.late"))
        return sinks

    return shop


@pytest.mark.parametrize("late", ["count", "dead_letter", "stream"])
def test_the_aggregate_knows_what_becomes_of_late_rows(late: str) -> None:
    """As the window was told."""
    step = only(plan_of(_late(late)), "aggregate")
    assert isinstance(step, AggregateStep)
    assert step.late == late


def test_late_rows_have_the_columns_they_came_with() -> None:
    """And the bounds of their window; so the rows are not narrowed before they are moved to their group."""
    plan = plan_of(_late("stream"))
    late, source = only(plan, "late"), only(plan, "source")
    assert isinstance(late, LateStep)
    assert list(types(late)) == [*types(source), "window_start", "window_end"]
    assert not late.is_table
    assert output(plan, "too.late").kind == "event"
    assert output(plan, "too.late").time == "placed_at"
    (narrow,) = [step for step in plan_of(_late("count")).steps if step.kind == "project"]
    assert list(types(narrow)) == ["status"]


def test_late_rows_do_not_show_what_only_the_aggregate_reads() -> None:
    """Hidden columns with its arguments stay hidden."""

    def shop() -> Any:
        window = hr.stream("orders").group_by("status").window(hr.session("1h"), late="stream")
        total = window.agg(total=hr.sum(col("amount") * 2))
        return total.to("totals"), total.late().to("too.late"), total.late().to("too.late.again")

    plan = plan_of(shop)
    assert not [name for name in types(only(plan, "late")) if name.startswith("__")]


def test_late_rows_need_windows_that_hand_them_on() -> None:
    """By name: what is no window, and what was not asked for."""
    with pytest.raises(StepRefused, match="right out of windows"):
        plan_of(lambda: hr.stream("orders").group_by("status").agg(n=hr.count()).late().to("out"))
    with pytest.raises(StepRefused, match="'count'"):
        plan_of(
            lambda: hr.stream("orders").group_by("status").window(hr.session("1m")).agg(n=hr.count()).late().to("out")
        )
    with pytest.raises(OptionInvalid, match="'never'"):
        plan_of(_late("never"))


def test_late_rows_cannot_have_two_window_starts() -> None:
    """A column that the user called so."""

    def shop() -> Any:
        orders = hr.stream("orders").with_columns(window_end=col("placed_at"))
        return orders.group_by("status").window(hr.tumbling("1h"), late="stream").agg(n=hr.count()).late().to("out")

    with pytest.raises(NameInvalid, match="window_end"):
        plan_of(shop)


def _suppressed(suppression: Any, **options: Any) -> Callable[[], Any]:
    def shop() -> Any:
        counts = hr.stream("orders").group_by("status").window(hr.tumbling("1h")).agg(n=hr.count())
        return counts.filter(col("n") > 1).suppress(suppression).to("out", **options)

    return shop


def test_until_closed_is_the_windows_own_final_result_and_stays_a_table() -> None:
    """No step of its own; each window once; the topic is a table, unless asked otherwise."""
    plan = plan_of(_suppressed(hr.until_closed()))
    assert "suppress" not in kinds(plan)
    assert only(plan, "aggregate").emit is Emit.FINAL
    assert output(plan).kind == "table"
    assert output(plan_of(_suppressed(hr.until_closed(), kind="event"))).kind == "event"


def test_until_closed_needs_windows_right_above() -> None:
    """Without windows, or behind another step, nothing is ever closed."""
    with pytest.raises(StepRefused, match="windows right above"):
        plan_of(lambda: hr.stream("orders").group_by("status").agg(n=hr.count()).suppress(hr.until_closed()).to("out"))
    with pytest.raises(StepRefused, match="windows right above"):
        plan_of(lambda: hr.table("stock").suppress(hr.until_closed()).to("out"))
    with pytest.raises(OptionInvalid, match="differ in emit"):
        plan_of(_suppressed(hr.until_closed(), emit="updates"))


@pytest.mark.parametrize(
    ("suppression", "bounds"),
    [
        (lambda: hr.until("5m"), (300_000, None)),
        (lambda: hr.until("5m", rows_max=7), (300_000, 7)),
        (lambda: hr.at_most(7), (None, 7)),
    ],
)
def test_bounded_suppression_is_a_step(suppression: Callable[[], Any], bounds: tuple[Any, Any]) -> None:
    """With a changelog; the rows and the key stay as they are, of windows and of any table."""
    step = only(plan_of(_suppressed(suppression())), "suppress")
    assert isinstance(step, SuppressStep)
    assert (step.limit_ms, step.rows_max) == bounds
    assert step.changelog == "shop.suppress_status_window_start.changelog"
    plan = plan_of(lambda: hr.table("stock").suppress(suppression()).to("out"))
    assert only(plan, "suppress").key == ("shop", "product_id")
    assert output(plan).kind == "table"


def test_the_fingerprint_of_suppression_is_that_of_its_rows() -> None:
    """How long they are held may change; what they are may not."""
    before = only(plan_of(_suppressed(hr.until("5m"))), "suppress")
    assert only(plan_of(_suppressed(hr.at_most(3))), "suppress").fingerprint == before.fingerprint
    other = only(plan_of(lambda: hr.table("stock").suppress(hr.until("5m")).to("out")), "suppress")
    assert other.fingerprint != before.fingerprint


def test_suppression_is_refused_by_name() -> None:
    """Values that make no sense."""
    with pytest.raises(OptionInvalid, match="until when"):
        plan_of(_suppressed("5m"))
    with pytest.raises(OptionInvalid, match="rows"):
        hr.at_most(0)
    with pytest.raises(OptionInvalid, match="rows_max"):
        hr.until("5m", rows_max=-1)
