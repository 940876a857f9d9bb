"""The egress contract: what a connector is.

Owns the `Connector` protocol and the values that cross it; `batch` has the rows. A connector package imports this
module, not the log, the codec or the runner.

- Batch in, positions included: rows are Arrow columns, decoded, projected and named as in the target.
- A target that stores positions beside the data (`atomic_positions`) gets each row exactly once; others at least once.
- Rows of one partition come in offset order; one connector object sees one thread. An egress with `tasks` has a
  connector object for each of them.
- `headrace.testing.sink_conformance` holds every connector to what is written here.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from headrace.contracts.arrow import to_arrow
from headrace.contracts.contract import Contract
from headrace.egress.batch import EgressBatch, Operation
from headrace.egress.errors import ConnectorUnknown, EgressError, PositionMoved, TargetInvalid, TargetUnavailable
from headrace.errors import Fault, HeadraceError, Where

__all__ = [
    "ENTRY_POINTS",
    "Capabilities",
    "Checks",
    "Connector",
    "ConnectorConfig",
    "Contract",
    "DriftPolicy",
    "EgressBatch",
    "EgressError",
    "Explains",
    "Fault",
    "HeadraceError",
    "Mode",
    "Operation",
    "Options",
    "PositionMoved",
    "Refused",
    "Rewinds",
    "TargetInvalid",
    "TargetUnavailable",
    "Where",
    "arrow_schema",
    "connector_names",
    "isolate",
    "load_connector",
]

ENTRY_POINTS = "headrace.connectors"
"""Entry point group: name of the connector to the class (or function) that makes one without arguments."""


class Mode(enum.Enum):
    """What the target is to be."""

    APPEND = "append"
    """Every record becomes a row."""
    UPSERT = "upsert"
    """The latest row of each key; deletions are left out."""
    REPLICATE = "replicate"
    """The latest row of each key; a deletion removes it."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a connector can do; the runner refuses a configuration that asks for more, and shows the guarantee."""

    modes: frozenset[Mode]
    atomic_positions: bool
    """Positions become durable with the rows, or not at all."""
    creates_table: bool = False
    """A missing table (index, folder) is made from the contract."""
    alters_table: bool = False
    """Added, widened and renamed columns are applied by the drift policy."""
    partial_update: bool = False
    """A column can be left as it is (`EgressBatch.unavailable`). Without it a row with an unavailable value is a dead
    letter."""
    truncate: bool = False
    """All rows can be removed at once (`Operation.TRUNCATE`)."""
    refuses_stale: bool = False
    """A row older than what the target holds of its key changes nothing (`EgressBatch.version`)."""
    parallel: bool = False
    """Several connectors may write into one target at the same time, each its own partitions (`tasks` of an egress
    file, and the members of a group on several machines)."""
    ordered: bool = True
    """Rows of one partition appear in the target in their order."""
    stages: bool = True
    """Rows appear with the flush. False where `write` sends them, because only the target's answer tells which rows it
    refuses; a row may then be there that was never flushed, so it goes with `atomic_positions=False` alone."""

    @property
    def delivery(self) -> str:
        """`exactly_once` or `at_least_once`."""
        return "exactly_once" if self.atomic_positions else "at_least_once"


class DriftPolicy(BaseModel):
    """What happens to the target when the contract changed. A refusal stops the egress with an error that says why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    add: Literal["apply", "refuse"] = "apply"
    """`apply` or `refuse`: a column of the contract is not in the target."""
    widen: Literal["apply", "refuse"] = "apply"
    """`apply` or `refuse`: a column of the contract holds more than the target's (int to long, ...)."""
    rename: Literal["apply", "refuse"] = "apply"
    """`apply` or `refuse`: the target has a column under a former name, an alias of the field."""
    drop: Literal["keep", "apply", "refuse"] = "keep"
    """`keep`, `apply` or `refuse`: the target has a column that the contract no longer has."""


class Options(BaseModel):
    """Base of a connector's own options: `options:` of `egress/*.yaml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True, slots=True)
class ConnectorConfig:
    """What the runner tells a connector when it opens it."""

    egress: str
    """Name of the egress: unique in a workspace, the owner of the positions in the target."""
    topic: str
    mode: Mode
    options: Options
    """An instance of the connector's `options_model`."""
    drift: DriftPolicy = field(default_factory=DriftPolicy)


class Refused(NamedTuple):
    """A row that the target does not take; it becomes a dead letter of stage `deliver`."""

    row: int
    """Index in the batch."""
    code: str
    """Stable, `<connector>.<reason>`."""
    message: str


class Connector(Protocol):
    """One egress's way into one target.

    Order of calls, all on one thread: `open (write | flush)* close`, repeated: the runner closes and opens again after
    every change of its partitions and after every raise. A crash skips everything that was still to come, `close`
    too; what `flush` returned from is in the target for good.

    What a raise means: `TargetUnavailable` (or any error of fault RETRY) is tried again with backoff, from the
    positions that the next `open` returns; `TargetInvalid` (fault STOP) stops the egress until somebody changed
    something. Any other exception counts as RETRY, up to the configured number of attempts, and is reported as a
    mistake of the connector. After a raise of `write` or `flush` the runner forgets all staged rows and delivers them
    again, so a connector must not keep them either: `open` starts from nothing.
    """

    capabilities: Capabilities
    options_model: ClassVar[type[Options]]

    def open(self, config: ConnectorConfig, contract: Contract, partitions: Sequence[int]) -> Mapping[int, int]:
        """Make the target ready for `contract` and return the next offset of each partition that it holds.

        `contract` describes the target's rows: projected and renamed, key included. Creates or alters the table as
        far as the capabilities say and `config.drift` allows. May block. Partitions that the target knows nothing of
        are absent from the result; without `atomic_positions` the result is empty. With `atomic_positions` the target
        alone says where reading goes on, for an absent partition that is the beginning of the topic.
        """

    def write(self, batch: EgressBatch, positions: Mapping[int, int]) -> Sequence[Refused]:
        """Stage rows and return those that the target does not take; the others count as staged.

        `positions` are the next offsets once this batch is in the target, for every partition that moved, also where
        no row did. May block, may write to the target, but what is not flushed must not survive a crash together with
        its positions. The batch is the connector's to keep until `flush` or `close`.
        """

    def flush(self) -> None:
        """Make staged rows durable, with `atomic_positions` in one step with the positions. May block.

        Returns only when a crash of machine and target would not lose them. Raises `PositionMoved` where the target
        shows that another process delivered the same partition meanwhile.
        """

    def close(self) -> None:
        """Give everything back, dropping staged rows. Idempotent, does not raise for a target that is gone."""


@runtime_checkable
class Checks(Protocol):
    """A connector that can look at its target before it runs (`headrace egress validate`)."""

    def check(self, config: ConnectorConfig, contract: Contract) -> Sequence[str]:
        """What stands in the way: connection, rights, columns that do not fit. Empty where nothing does.

        Called instead of `open`, and changes nothing: no table, no column, no position, no file. May raise as `open`
        does, which counts as one problem.
        """


@runtime_checkable
class Explains(Protocol):
    """A connector that can show what it would do (`headrace egress dry-run`)."""

    def explain(self, config: ConnectorConfig, contract: Contract, batch: EgressBatch) -> Sequence[str]:
        """The statements, requests or files that these rows would become, as text without secrets.

        Called instead of `open`; touches neither target nor network. A line is one line, and of many rows the first
        ones are enough: `headrace.egress.explained` has the bounds.
        """


@runtime_checkable
class Rewinds(Protocol):
    """A connector whose positions can be set (`headrace rewind`); it has `atomic_positions`.

    Both are called instead of `open`, while the egress delivers nowhere. Rows stay as they are.
    """

    def positions(self, config: ConnectorConfig, contract: Contract) -> Mapping[int, int]:
        """The next offset of every partition that the target holds. Changes nothing: makes no table and no file."""

    def rewind(
        self, config: ConnectorConfig, contract: Contract, before: Mapping[int, int], after: Mapping[int, int]
    ) -> None:
        """Set the positions `after`, forwards or back, in one step and durable as those of `flush`.

        `before` is where these partitions stand; those that the target does not know are absent. Raises
        `PositionMoved`, and changes nothing, where one stands elsewhere.
        """


def arrow_schema(contract: Contract) -> pa.Schema:
    """The Arrow columns of a contract's rows. Every column is nullable: deletions have only their key."""
    schema: pa.Schema = to_arrow(contract.schema)
    return pa.schema([each.with_nullable(True) for each in schema], metadata=schema.metadata)


def connector_names() -> list[str]:
    """Names of the installed connectors, sorted."""
    return sorted({each.name for each in metadata.entry_points(group=ENTRY_POINTS)})


def load_connector(name: str, *, where: Where | None = None) -> Connector:
    """A new connector of this name. Raises `ConnectorUnknown`."""
    for entry in metadata.entry_points(group=ENTRY_POINTS):
        if entry.name == name:
            factory: Callable[[], Connector] = entry.load()
            return factory()
    raise ConnectorUnknown(name, connector_names(), where=where)


def isolate(
    count: int, attempt: Callable[[int, int], None], *, refuses: tuple[type[Exception], ...], code: str
) -> list[Refused]:
    """Find the rows that a target refuses where it only says that some row of many is bad.

    `attempt(start, stop)` writes these rows wholly or raises one of `refuses` and leaves nothing of them. Halves are
    tried until single rows stand alone: about `2 * bad * log2(count)` attempts.
    """
    refused: list[Refused] = []
    ranges = [(0, count)]
    while ranges:
        start, stop = ranges.pop()
        if start == stop:
            continue
        try:
            attempt(start, stop)
        except refuses as error:
            if stop - start == 1:
                refused.append(Refused(start, code, str(error)))
                continue
            middle = (start + stop) // 2
            # The first half is popped first: rows keep their order in the target.
            ranges += [(middle, stop), (start, middle)]
    return refused
