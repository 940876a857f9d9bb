"""`headrace topics`: the topics of a workspace.

Owns the command and the shape of its rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.cli.options import EnvironmentOption, JsonOption, WorkspaceOption
from headrace.cli.output import emit_json, table

if TYPE_CHECKING:
    from headrace.workspace.overview import TopicRow


def topics(
    every: Annotated[bool, typer.Option("--all", help="Also topics that the workspace does not know.")] = False,
    json: JsonOption = False,
    workspace: WorkspaceOption = None,
    env: EnvironmentOption = None,
) -> None:
    """List the topics of the workspace."""
    from headrace.workspace.environment import connect
    from headrace.workspace.load import load
    from headrace.workspace.overview import topic_rows

    loaded = load(workspace)
    with connect(loaded.file, loaded.contracts, env) as environment:
        rows = topic_rows(loaded, environment, every=every)
        name = environment.name
    if json:
        emit_json({"workspace": loaded.name, "environment": name, "topics": [_json(row) for row in rows]})
        return
    table(
        ("topic", "kind", "owner", "partitions", "records", "exists"),
        [(row.topic, row.kind, row.owner, row.partitions, row.records, "yes" if row.exists else "no") for row in rows],
    )


def _json(row: TopicRow) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(row)
