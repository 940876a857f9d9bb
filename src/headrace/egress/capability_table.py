"""What the installed connectors can do, for people.

Owns the table of docs/connectors.md and the listing of `headrace connector list`; both come from the connectors.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

from headrace.egress.sdk import (
    ENTRY_POINTS,
    Capabilities,
    Checks,
    Connector,
    Explains,
    Rewinds,
    connector_names,
    load_connector,
)

_COLUMNS = (
    "Connector",
    "Modes",
    "Delivery",
    "Partial update",
    "Truncate",
    "Refuses stale",
    "Ordered",
    "Parallel",
    "Creates table",
    "Alters table",
    "Validate",
    "Dry run",
    "Rewind",
)
HEAD = (f"|{'|'.join(_COLUMNS)}|", f"|{'-|' * len(_COLUMNS)}")


@dataclass(frozen=True, slots=True)
class InstalledConnector:
    """One connector and where it comes from."""

    name: str
    modes: tuple[str, ...]
    delivery: str
    package: str
    version: str
    partial_update: bool
    truncate: bool
    refuses_stale: bool
    ordered: bool
    parallel: bool
    creates_table: bool
    alters_table: bool
    checks: bool
    explains: bool
    rewinds: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def installed_connectors() -> list[InstalledConnector]:
    """All of them, by name."""
    return [_installed(name, load_connector(name)) for name in connector_names()]


def _installed(name: str, connector: Connector) -> InstalledConnector:
    (entry, *_) = [each for each in metadata.entry_points(group=ENTRY_POINTS) if each.name == name]
    can = connector.capabilities
    return InstalledConnector(
        name=name,
        modes=tuple(sorted(mode.value for mode in can.modes)),
        delivery=can.delivery,
        package=entry.dist.name if entry.dist is not None else "",
        version=entry.dist.version if entry.dist is not None else "",
        partial_update=can.partial_update,
        truncate=can.truncate,
        refuses_stale=can.refuses_stale,
        ordered=can.ordered,
        parallel=can.parallel,
        creates_table=can.creates_table,
        alters_table=can.alters_table,
        checks=isinstance(connector, Checks),
        explains=isinstance(connector, Explains),
        rewinds=can_rewind(connector),
    )


def can_rewind(connector: Connector) -> bool:
    """Whether `headrace rewind` can move it: where the target holds no positions the group's are all there are."""
    return not connector.capabilities.atomic_positions or isinstance(connector, Rewinds)


def capability_row(name: str, connector: Connector) -> str:
    """One connector's row of the page's table."""
    can: Capabilities = connector.capabilities
    modes = ", ".join(f"`{mode}`" for mode in sorted(mode.value for mode in can.modes))
    able = (
        can.partial_update,
        can.truncate,
        can.refuses_stale,
        can.ordered,
        can.parallel,
        can.creates_table,
        can.alters_table,
        isinstance(connector, Checks),
        isinstance(connector, Explains),
        can_rewind(connector),
    )
    cells = [f"[{name}](connectors/{name}.md)", modes, can.delivery.replace("_", " ")]
    return "|" + "|".join([*cells, *("yes" if each else "" for each in able)]) + "|"
