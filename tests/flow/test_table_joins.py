"""Joins of tables: what is planned, what the columns are, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import headrace as hr
from headrace.contracts.contract import KeyEncoding, TopicKind
from headrace.errors import HeadraceError
from headrace.flow.explain import explain
from headrace.flow.internal_topics import plan_partitions
from headrace.flow.plan import Plan
from headrace.flow.steps import RepartitionStep, foreign_columns
from headrace.flow.values import SourceField
from tests.flow.samples import TIMESTAMP, contract, kinds, only, output, plan_of, types

ADDRESSES = contract(
    "addresses",
    {"customer_id": "long", "street": "string", "name": ["null", "string"], "moved_at": TIMESTAMP},
    kind=TopicKind.TABLE,
    key=("customer_id",),
    time="moved_at",
)
BASKETS = contract(
    "baskets",
    {"basket_id": "string", "customer_id": ["null", "long"], "product_id": "string", "name": "string"},
    kind=TopicKind.TABLE,
    key=("basket_id",),
    record_time=True,
)
PRICES = contract(
    "prices",
    {"product_id": "string", "shop": "string", "cents": "long"},
    kind=TopicKind.TABLE,
    key=("product_id", "shop"),
)
ROOMS = contract(
    "rooms",
    {"sensor": "string", "floor": "int"},
    kind=TopicKind.TABLE,
    key=("sensor",),
    key_encoding=KeyEncoding.STRING,
    partitions=4,
)


def planned(function: Callable[[], Any]) -> Plan:
    """A pipeline over the samples and this file's contracts."""
    return plan_of(function, ADDRESSES, BASKETS, PRICES, ROOMS)


def by_keys(how: str = "inner", **options: Any) -> Plan:
    """Customers with their addresses."""
    return planned(lambda: hr.table("customers").join(hr.table("addresses"), how=how, **options).to("out"))


def by_foreign_key(how: str = "inner", **options: Any) -> Plan:
    """Baskets with their customers."""
    return planned(
        lambda: hr.table("baskets").join(hr.table("customers"), left_on="customer_id", how=how, **options).to("out")
    )


def moves(plan: Plan) -> list[tuple[tuple[str, ...], str | None]]:
    """Key and model of each repartition."""
    return [(step.key, step.like) for step in plan.steps if isinstance(step, RepartitionStep)]


# By keys


def test_tables_are_joined_on_their_keys_in_one_step() -> None:
    """The other side moves to where the left one is, for its Avro keys have other bytes."""
    plan = by_keys()
    step = only(plan, "table_table_join")
    assert (step.on, step.how, step.key, step.is_table) == (
        (("customer_id", "customer_id"),),
        "inner",
        ("customer_id",),
        True,
    )
    assert step.renames == {"street": "street", "name": "name_right", "moved_at": "moved_at"}
    assert moves(plan) == [(("customer_id",), "customers")]
    assert output(plan).key == ("customer_id",)
    assert output(plan).kind == "table"


@pytest.mark.parametrize(
    ("how", "name", "street", "name_right"),
    [
        ("inner", "string", "string", ["null", "string"]),
        ("left", "string", ["null", "string"], ["null", "string"]),
        ("outer", ["null", "string"], ["null", "string"], ["null", "string"]),
    ],
)
def test_a_side_that_may_be_missing_is_nullable(how: str, name: Any, street: Any, name_right: Any) -> None:
    """Not the key, which every result has."""
    found = types(only(by_keys(how), "table_table_join"))
    assert found["customer_id"] == "long"
    assert (found["name"], found["street"], found["name_right"]) == (name, street, name_right)


def test_the_key_of_an_outer_join_comes_from_both() -> None:
    """Lineage, influences, and event time of two tables."""
    plan = by_keys("outer")
    key = next(column for column in only(plan, "table_table_join").columns if column.name == "customer_id")
    sides = {SourceField(topic=topic, field="customer_id") for topic in ("customers", "addresses")}
    assert set(key.lineage) == sides
    inner = output(by_keys())
    assert SourceField(topic="addresses", field="customer_id") in inner.influences
    assert (inner.time, inner.record_time) == (None, False), "customers has no event time"


def test_keys_of_other_names_are_joined_in_their_order() -> None:
    """By name where the names are the same, else by position."""
    plan = planned(lambda: hr.table("stock").join(hr.table("prices")).to("out"))
    step = only(plan, "table_table_join")
    assert step.on == (("shop", "shop"), ("product_id", "product_id"))
    assert moves(plan) == [(("shop", "product_id"), "stock")]
    renamed = planned(
        lambda: hr.table("stock").join(hr.table("prices").rename({"shop": "s", "product_id": "p"})).to("o")
    )
    # The right key is (p, s): whoever means it otherwise says so.
    assert only(renamed, "table_table_join").on == (("shop", "p"), ("product_id", "s"))


def test_plain_text_keys_lie_alike() -> None:
    """Nothing moves, and both topics are read by one task."""
    plan = planned(lambda: hr.table("sensors").join(hr.table("rooms")).to("out"))
    assert not moves(plan)
    assert plan.subtopologies[0].reads == ("sensors", "rooms")


def test_a_table_of_an_aggregate_moves_when_it_is_not_known_where_it_lies() -> None:
    """Clicks lie where their topic's keys lie, which is not where headrace's hash would put them."""
    plan = planned(
        lambda: hr.stream("clicks").group_by("customer_id").agg(clicks=hr.count()).join(hr.table("customers")).to("out")
    )
    assert moves(plan) == [(("customer_id",), "customers")]


def test_two_aggregates_meet_by_headraces_hash() -> None:
    """Both moved by it to their group: then they lie alike. Else they move."""

    def counted(topic: str, name: str) -> Any:
        return hr.stream(topic).group_by("page").agg(**{name: hr.count()})

    plan = planned(lambda: counted("clicks", "clicks").join(counted("visits", "visits"), how="outer").to("out"))
    assert moves(plan) == [(("page",), None), (("page",), None)]
    assert plan_partitions(plan, {"clicks": 2, "visits": 5}.__getitem__).tasks[2] == 5

    def kept(topic: str, name: str) -> Any:
        return hr.stream(topic).group_by("customer_id").agg(**{name: hr.count()})

    moved = planned(lambda: kept("clicks", "clicks").join(kept("visits", "visits")).to("out"))
    assert moves(moved) == [(("customer_id",), None), (("customer_id",), None)]


def test_a_chain_of_joins_is_one_subtopology() -> None:
    """Flushes go down in one pass, so nobody sees a result of half of them."""
    plan = planned(
        lambda: hr.table("sensors").join(hr.table("rooms")).drop("floor").join(hr.table("rooms"), how="left").to("out")
    )
    assert len(plan.subtopologies) == 1
    assert kinds(plan).count("table_table_join") == 2
    assert kinds(plan).count("source") == 2


def test_tables_with_history_leave_old_rows_out() -> None:
    """Each side for itself; after a join nothing says which row is older."""
    plan = planned(lambda: hr.table("customers").join(hr.table("addresses", history="1d").filter(street="x")).to("out"))
    assert only(plan, "table_table_join").versioned == (False, True)
    plan = planned(
        lambda: hr.table("baskets", history="1d").join(hr.table("customers"), left_on="customer_id").to("out")
    )
    assert only(plan, "foreign_subscribe").versioned
    assert not only(plan, "foreign_match").versioned


# By a foreign key


def test_a_foreign_key_join_has_three_steps_and_two_moves() -> None:
    """To where the right table's keys lie, and back to where the left table's do."""
    plan = by_foreign_key()
    steps = ["foreign_match", "foreign_resolve", "foreign_subscribe", *["repartition"] * 2, "sink", *["source"] * 2]
    assert sorted(kinds(plan)) == steps
    assert moves(plan) == [(tuple(foreign_columns(1)), "customers"), (("basket_id",), "baskets")]
    assert [len(each.reads) for each in plan.subtopologies] == [1, 2, 1]
    subscribe, match, resolve = (only(plan, f"foreign_{name}") for name in ("subscribe", "match", "resolve"))
    assert (subscribe.foreign, match.on) == (("customer_id",), (("customer_id", "customer_id"),))
    assert [step.messages for step in (subscribe, match, resolve)] == ["subscriptions", "answers", ""]
    assert match.renames == {"name": "name_right", "status": "status", "joined_at": "joined_at"}
    assert output(plan).key == resolve.key == ("basket_id",)
    assert len({subscribe.changelog, match.changelog, resolve.changelog}) == 3


def test_the_foreign_key_stays_and_the_right_key_is_not_repeated() -> None:
    """Nullable is what was, and the right side of a left join."""
    found = types(only(by_foreign_key("left"), "foreign_resolve"))
    assert list(found) == ["basket_id", "customer_id", "product_id", "name", "name_right", "status", "joined_at"]
    assert found["customer_id"] == ["null", "long"]
    assert found["name_right"] == ["null", "string"]
    assert types(only(by_foreign_key(), "foreign_resolve"))["name_right"] == "string"


def test_a_foreign_key_may_have_several_columns() -> None:
    """In the order of the right key."""
    plan = planned(
        lambda: (
            hr.table("baskets")
            .with_columns(shop=hr.lit("here"))
            .join(hr.table("prices"), left_on=["shop", "product_id"], right_on=["shop", "product_id"])
            .to("out")
        )
    )
    assert only(plan, "foreign_match").on == (("product_id", "product_id"), ("shop", "shop"))
    assert only(plan, "foreign_subscribe").foreign == ("product_id", "shop")
    assert moves(plan)[0] == (tuple(foreign_columns(2)), "prices")


def test_a_table_may_refer_to_itself_and_twice_to_another() -> None:
    """Each reads the table anew, so that no subtopology waits for itself."""
    itself = planned(
        lambda: (
            hr.table("baskets")
            .join(hr.table("baskets").select("basket_id", twin=hr.col("name")), left_on="product_id")
            .to("out")
        )
    )
    assert [("baskets" in each.reads, len(each.reads)) for each in itself.subtopologies] == [
        (True, 1),
        (True, 2),
        (False, 1),
    ]
    twice = planned(
        lambda: (
            hr.table("baskets")
            .join(hr.table("customers"), left_on="customer_id")
            .join(hr.table("customers"), left_on="customer_id", suffix="_again")
            .to("out")
        )
    )
    assert [len(each.reads) for each in twice.subtopologies].count(2) == 2
    assert len({step.name for step in twice.steps}) == len(twice.steps)


def test_a_derived_right_table_is_found_by_its_key() -> None:
    """Where it is not known to lie by its key it moves, and the subscriptions go where it lies."""
    plan = planned(
        lambda: (
            hr.table("baskets")
            .join(hr.stream("clicks").group_by("customer_id").agg(clicks=hr.count()), left_on="customer_id", how="left")
            .to("out")
        )
    )
    route = tuple(foreign_columns(1))
    assert sorted(moves(plan)) == sorted([(("customer_id",), None), (route, None), (("basket_id",), "baskets")])
    assert set(plan_partitions(plan, {"clicks": 2, "baskets": 5}.__getitem__).tasks.values()) == {2, 5}


# Names, fingerprints, words


def test_the_fingerprint_is_of_what_the_state_means() -> None:
    """Columns and kind of join; not names, waits and the steps behind."""

    def join(**options: Any) -> str:
        fingerprint: str = only(by_keys(**options), "table_table_join").fingerprint
        return fingerprint

    assert join() == join(max_wait="5s")
    assert join() != join(how="left")
    assert join() != join(suffix="_x")
    foreign = {step.fingerprint for step in by_foreign_key().steps if step.kind.startswith("foreign")}
    assert len(foreign) == 1
    assert foreign != {step.fingerprint for step in by_foreign_key("left").steps if step.kind.startswith("foreign")}


def test_a_name_is_that_of_all_steps_of_a_foreign_key_join() -> None:
    """`.named` names all that the join is made of, so its state is found wherever else the pipeline is edited."""
    plan = planned(
        lambda: hr.table("baskets").join(hr.table("customers"), left_on="customer_id").named("full_baskets").to("out")
    )
    names = ["full_baskets", *(f"full_baskets_{part}" for part in ("match", "subscribe", "to_match", "to_resolve"))]
    assert sorted(step.name for step in plan.steps if step.name.startswith("full")) == names


def test_plans_of_joins_are_explained_and_stored() -> None:
    """In words, and through JSON."""
    for plan in (by_keys("outer"), by_foreign_key("left")):
        assert "join on customer_id" in explain(plan)
        assert Plan.from_json(plan.to_json()) == plan


def test_the_rows_of_a_join_are_never_final() -> None:
    """Windows above may be, but the other side goes on changing."""

    def windows() -> Any:
        counted = hr.stream("readings").group_by("sensor").window(hr.tumbling("1m")).agg(readings=hr.count())
        return counted.suppress(hr.until_closed())

    plan = planned(lambda: windows().join(hr.table("sensors"), left_on="sensor").to("out"))
    assert output(plan).kind == "table"
    with pytest.raises(HeadraceError, match="emit is for the results of an aggregate"):
        planned(lambda: windows().join(hr.table("sensors"), left_on="sensor").to("out", emit="final"))


# Refusals


@pytest.mark.parametrize(
    ("join", "code", "words"),
    [
        (lambda: hr.table("customers").join(hr.stream("clicks")), "flow.type_clash", "a table joins tables"),
        (lambda: hr.table("customers").join("addresses"), "flow.type_clash", "not str"),
        (
            lambda: hr.table("customers").join(hr.table("addresses"), how="right"),
            "flow.option_invalid",
            "how is 'right'",
        ),
        (
            lambda: hr.table("baskets").join(hr.table("customers"), left_on="customer_id", how="outer"),
            "flow.option_invalid",
            "how is 'outer'",
        ),
        (lambda: hr.table("customers").join(hr.table("stock")), "flow.option_invalid", "the left table's key"),
        (lambda: hr.table("baskets").join(hr.table("customers")), "flow.type_clash", "'basket_id' is String"),
        (
            lambda: hr.table("baskets").join(hr.table("customers"), left_on="product_id"),
            "flow.type_clash",
            "'product_id' is String",
        ),
        (
            lambda: hr.table("baskets").join(hr.table("customers"), left_on="name", right_on="name"),
            "flow.step_refused",
            "keyed by customer_id",
        ),
        (
            lambda: hr.table("baskets").join(hr.table("customers"), left_on="custmer_id"),
            "flow.unknown_column",
            "custmer_id",
        ),
        (
            lambda: hr.table("baskets").join(hr.table("customers"), on="customer_id", left_on="customer_id"),
            "flow.option_invalid",
            "both on",
        ),
        (
            lambda: hr.table("baskets").join(hr.table("customers"), left_on=["customer_id", "name"]),
            "flow.option_invalid",
            "as many columns",
        ),
        (
            lambda: hr.table("customers").join(hr.table("addresses"), suffix=""),
            "flow.duplicate_name",
            "second 'name'",
        ),
    ],
)
def test_what_cannot_be_joined_is_refused_with_a_cure(join: Callable[[], Any], code: str, words: str) -> None:
    """Before anything runs, naming the user's line."""
    with pytest.raises(HeadraceError) as caught:
        planned(lambda: join().to("out"))
    assert caught.value.code == code
    assert words in caught.value.message
    assert caught.value.cure
    assert caught.value.where is not None
    assert caught.value.where.file.endswith("test_table_joins.py")
