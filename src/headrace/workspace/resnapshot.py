"""Orders to read a table of a database again beside its stream.

Owns what `headrace resnapshot` does: the keys of these orders in the control topic, `resnapshot/<ingress>/<table>`.

- An order is durable before anybody follows it; the ingress notes in its position which order it has followed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from headrace.workspace.control import ControlState, open_control
from headrace.workspace.environment import Environment
from headrace.workspace.errors import UnknownName, WorkspaceError, did_you_mean
from headrace.workspace.load import Workspace

_PREFIX = "resnapshot/"


class NoResnapshot(WorkspaceError):
    """An ingress that cannot read tables again while it runs."""

    code = "workspace.no_resnapshot"


def order_resnapshot(workspace: Workspace, environment: Environment, ingress: str, tables: Sequence[str]) -> None:
    """Say that tables are to be read again. Raises `UnknownName`, `NoResnapshot`, `LogError`."""
    from headrace.ingress.cdc.config import PostgresCdcConfig

    known = {each.name: each for each in workspace.ingress}
    if ingress not in known:
        raise UnknownName(f"workspace {workspace.name!r} has no ingress {ingress!r}", cure=did_you_mean(ingress, known))
    config = known[ingress]
    if not isinstance(config, PostgresCdcConfig):
        raise NoResnapshot(
            f"ingress {ingress!r} does not read from PostgreSQL, and others do not read a table again while they run",
            cure="give the ingress another name: it then begins with a snapshot",
        )
    for table in tables:
        if table not in config.tables:
            raise UnknownName(
                f"ingress {ingress!r} captures no table {table!r}", cure=did_you_mean(table, config.tables)
            )
    with open_control(environment) as control:
        for table in tables:
            now_ms = time.time_ns() // 1_000_000
            control.put(f"{_PREFIX}{ingress}/{table}", {"order": str(now_ms), "since_ms": now_ms})


def orders_of(state: ControlState, ingress: str) -> Mapping[str, str]:
    """The last order of each table."""
    return {table: str(entry["order"]) for table, entry in state.under(f"{_PREFIX}{ingress}/").items()}
