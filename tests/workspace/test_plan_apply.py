"""Plan and apply against a real log: what is planned is done, twice is once, and problems change nothing."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from headrace.log.port import TopicDescription, TopicSpec
from headrace.workspace.apply import apply_plan
from headrace.workspace.changes import CreateTopic
from headrace.workspace.environment import Environment, connect
from headrace.workspace.errors import PlanRefused
from headrace.workspace.load import Workspace, load
from headrace.workspace.plan import WorkspacePlan, make_plan

from .conftest import ORDERS, WriteWorkspace

NEEDED = [
    "customers.revenue",
    "orders",
    "totals.aggregate_customer.changelog",
    "totals.dlq",
    "totals.repartition_customer.repartition",
]


@contextmanager
def opened(root: Path, environment: str = "dev") -> Iterator[tuple[Workspace, Environment]]:
    workspace = load(root)
    with connect(workspace.file, workspace.contracts, environment) as connected:
        yield workspace, connected


def planned(root: Path, environment: str = "dev") -> WorkspacePlan:
    with opened(root, environment) as (workspace, connected):
        return make_plan(workspace, connected)


def applied(root: Path, environment: str = "dev") -> WorkspacePlan:
    with opened(root, environment) as (workspace, connected):
        plan = make_plan(workspace, connected)
        apply_plan(plan, workspace, connected)
        return plan


def topics(root: Path) -> dict[str, TopicDescription]:
    with opened(root) as (_, connected):
        admin = connected.log.admin()
        return dict(admin.topics())


def test_plan_then_apply_then_nothing(write_workspace: WriteWorkspace) -> None:
    """A fresh environment lacks every topic and schema; after apply the plan is empty and the exit code says so."""
    root = write_workspace()
    plan = planned(root)
    assert plan.exit_code == 2
    created = [change.spec.name for change in plan.changes if isinstance(change, CreateTopic)]
    assert sorted(created) == NEEDED
    assert {verdict.verdict for verdict in plan.verdicts} == {"new"}
    assert planned(root) == plan  # Planning changes nothing.
    applied(root)
    assert sorted(topics(root).keys() - {"_schemas"}) == NEEDED
    after = planned(root)
    assert (after.changes, after.problems, after.exit_code) == ((), (), 0)
    assert {verdict.verdict for verdict in after.verdicts} == {"unchanged"}
    assert applied(root).changes == ()


def test_apply_of_an_old_plan_is_harmless(write_workspace: WriteWorkspace) -> None:
    """Two people applying the same plan end where one of them would have."""
    root = write_workspace()
    with opened(root) as (workspace, connected):
        plan = make_plan(workspace, connected)
        apply_plan(plan, workspace, connected)
        apply_plan(plan, workspace, connected)
        assert make_plan(workspace, connected).exit_code == 0


def test_compatible_change_becomes_a_version(write_workspace: WriteWorkspace) -> None:
    """A new optional field is a second version of the value, and nothing else changes."""
    root = write_workspace()
    applied(root)
    write_workspace(**{"contracts/orders.yaml": ORDERS + '  note: "string?"\n'})
    plan = planned(root)
    assert [(change.action, change.target) for change in plan.changes] == [("register_schema", "orders-value")]
    verdict = next(each for each in plan.verdicts if each.subject == "orders-value")
    assert verdict.verdict == "compatible"
    applied(root)
    with opened(root) as (_, connected):
        assert len(connected.registry.versions("orders-value")) == 2


def test_incompatible_schema_is_refused_whole(write_workspace: WriteWorkspace) -> None:
    """A required new field is a problem with its reason and place, and apply changes nothing else either."""
    root = write_workspace()
    applied(root)
    changed = ORDERS + "  note: string\n"
    write_workspace(**{"contracts/orders.yaml": changed, "contracts/new.yaml": ORDERS.replace("orders", "new")})
    plan = planned(root)
    assert plan.exit_code == 1
    (problem,) = plan.problems
    assert "note" in problem.message
    assert problem.where is not None
    assert problem.where.file.endswith("orders.yaml")
    verdict = next(each for each in plan.verdicts if each.subject == "orders-value")
    assert (verdict.verdict, len(verdict.reasons)) == ("incompatible", 1)
    with pytest.raises(PlanRefused, match="note"):
        applied(root)
    assert "new" not in topics(root)
    with opened(root) as (_, connected):
        assert len(connected.registry.versions("orders-value")) == 1


def test_silent_change_of_meaning_is_a_warning(write_workspace: WriteWorkspace) -> None:
    """A unit that changes under the old bytes is compatible for Avro: the plan warns, once, and can be applied."""
    root = write_workspace()
    applied(root)
    write_workspace(**{"contracts/orders.yaml": ORDERS.replace("timestamp-millis", "timestamp-micros")})
    plan = planned(root)
    assert plan.exit_code == 2
    (warned,) = (verdict for verdict in plan.verdicts if verdict.warnings)
    assert (warned.subject, warned.verdict) == ("orders-value", "compatible")
    assert warned.warnings[0].startswith("field placed_at: was timestamp-millis, is now timestamp-micros")
    assert warned.as_json()["warnings"] == list(warned.warnings)
    applied(root)
    assert not any(verdict.warnings for verdict in planned(root).verdicts)


def test_mode_none_lets_it_through(write_workspace: WriteWorkspace) -> None:
    """The mode of the contract is set before its schema is registered, so the verdict is by the new mode."""
    root = write_workspace()
    applied(root)
    write_workspace(**{"contracts/orders.yaml": "compatibility: none\n" + ORDERS.lstrip() + "  note: string\n"})
    plan = planned(root)
    assert [(change.action, change.target) for change in plan.changes] == [
        ("set_compatibility", "orders-key"),
        ("set_compatibility", "orders-value"),
        ("register_schema", "orders-value"),
    ]
    applied(root)
    assert planned(root).exit_code == 0


def test_retention_is_altered(write_workspace: WriteWorkspace) -> None:
    """A changed retention becomes a changed setting of the topic."""
    root = write_workspace()
    applied(root)
    write_workspace(**{"contracts/orders.yaml": "retention: 7d\n" + ORDERS.lstrip()})
    (change,) = planned(root).changes
    assert change.action == "alter_topic"
    applied(root)
    assert topics(root)["orders"].config["retention.ms"] == str(7 * 24 * 60 * 60 * 1000)
    assert planned(root).exit_code == 0


def test_partitions_that_cannot_be_joined_are_a_problem(write_workspace: WriteWorkspace) -> None:
    """A keyed topic with another number of partitions than its contract asks for keeps the plan from being applied."""
    root = write_workspace(**{"contracts/orders.yaml": "partitions: 3\n" + ORDERS.lstrip()})
    with opened(root) as (_, connected):
        admin = connected.log.admin()
        admin.create_topics([TopicSpec("orders", 1)])
        admin.close()
    plan = planned(root)
    assert plan.exit_code == 1
    assert [problem.code for problem in plan.problems] == ["workspace.partitions_fixed"]


def test_internal_topics_follow_what_is_there(write_workspace: WriteWorkspace) -> None:
    """Internal topics are as wide as the topics that are read, not as the environment's default."""
    root = write_workspace()
    with opened(root) as (_, connected):
        admin = connected.log.admin()
        admin.create_topics([TopicSpec("orders", 5)])
        admin.close()
    applied(root)
    assert {name: topic.partitions for name, topic in topics(root).items() if name in NEEDED} == {
        "customers.revenue": 2,
        "orders": 5,
        "totals.aggregate_customer.changelog": 5,
        "totals.dlq": 1,
        "totals.repartition_customer.repartition": 5,
    }


def test_broken_egress_is_a_problem(write_workspace: WriteWorkspace) -> None:
    """An unknown topic and an unknown connector are told with their files; the plan cannot be applied."""
    root = write_workspace(
        **{
            "egress/lost.yaml": "topic: customers.revenu\nconnector: duckdb\nmode: append\n",
            "egress/odd.yaml": "topic: customers.revenue\nconnector: ducdb\nmode: append\n",
        }
    )
    problems = planned(root).problems
    assert [Path(problem.where.file).name for problem in problems if problem.where] == ["lost.yaml", "odd.yaml"]
    assert "did you mean 'customers.revenue'?" in str(problems[0])
    assert "no connector 'ducdb'" in str(problems[1])


def test_json_is_plain(write_workspace: WriteWorkspace) -> None:
    """The JSON of a plan has the documented fields and nothing that JSON cannot hold."""
    import json

    made = json.loads(json.dumps(planned(write_workspace()).to_json()))
    assert set(made) == {
        "format",
        "workspace",
        "environment",
        "log",
        "exit_code",
        "changes",
        "schemas",
        "pipelines",
        "egress",
        "problems",
    }
    assert all({"action", "target", "summary"} <= set(change) for change in made["changes"])
    (pipeline,) = made["pipelines"]
    assert (pipeline["reads"], pipeline["writes"]) == (["orders"], ["customers.revenue"])


@pytest.mark.kafka
def test_same_workspace_on_kafka(
    write_workspace: WriteWorkspace, kafka_bootstrap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a real broker the same workspace plans, applies and is then unchanged, settings included."""
    unique = f"w{uuid.uuid4().hex[:8]}"
    root = write_workspace()
    for path in [*root.rglob("*.yaml"), *root.rglob("*.py")]:
        text = path.read_text().replace("totals", f"totals_{unique}")
        path.write_text(
            text.replace("orders", f"{unique}.orders", 1)
            .replace('"orders"', f'"{unique}.orders"')
            .replace("customers.revenue", f"{unique}.revenue")
        )
    monkeypatch.setenv("SHOP_KAFKA", kafka_bootstrap)
    assert "SHOP_KAFKA" in os.environ
    plan = applied(root, "kafka")
    assert plan.log == "kafka"
    assert len(plan.topics) == len(NEEDED)
    after = planned(root, "kafka")
    assert (after.changes, after.problems) == ((), ())
