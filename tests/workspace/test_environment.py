"""An environment at work: what it hands on from `headrace.toml`."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from headrace.log.embedded.admin import EmbeddedAdmin
from headrace.log.port import TopicSpec
from headrace.workspace.apply import apply_plan
from headrace.workspace.environment import connect
from headrace.workspace.load import load
from headrace.workspace.plan import make_plan

from .conftest import CONFIG, WriteWorkspace


def test_replication_factor_holds_for_every_topic(
    write_workspace: WriteWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Topics of the plan and the schema topic of the built-in registry, which no plan shows, are all made with it."""
    made: dict[str, int] = {}
    create = EmbeddedAdmin.create_topics

    def recorded(self: EmbeddedAdmin, specs: Iterable[TopicSpec]) -> None:
        asked = list(specs)
        made.update({spec.name: spec.replication_factor for spec in asked})
        create(self, asked)

    monkeypatch.setattr(EmbeddedAdmin, "create_topics", recorded)
    config = CONFIG.replace('log = "embedded"', 'log = "embedded"\nreplication_factor = 3')
    workspace = load(write_workspace(**{"headrace.toml": config}))
    with connect(workspace.file, workspace.contracts, "dev") as environment:
        apply_plan(make_plan(workspace, environment), workspace, environment)
    assert {"_schemas", "orders", "totals.dlq"} <= made.keys()
    assert set(made.values()) == {3}
