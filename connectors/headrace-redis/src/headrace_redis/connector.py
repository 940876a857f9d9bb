"""Rows and positions in Redis, exactly once.

Owns the hash of positions and the keys under the egress's prefix, or its stream.

- Rows and positions are one script: after a crash of Redis both are there or neither, as far as Redis keeps anything.
- What Redis forgets, it forgets with its positions, so that it is delivered again from the topic.
- The script compares the positions first: a second process that delivers the same partition is found out.
- A flush of many rows is several scripts, each with the positions that belong to its rows.
- A truncation is several steps before those. Positions stand before it until they are done: a crash begins it anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.egress.sdk import (
    Capabilities,
    ConnectorConfig,
    Contract,
    EgressBatch,
    Mode,
    Operation,
    Options,
    PositionMoved,
    Refused,
    TargetInvalid,
)
from headrace_redis.client import Client, Moved
from headrace_redis.options import OWN_KEYS, Format, RedisOptions
from headrace_redis.readable import emptying, readable
from headrace_redis.rows import Indexes, RowWriter
from headrace_redis.script import FIELDS_MAX, PARTITIONS_MAX, Commands, empty_request, request

SCRIPT_ROWS_MAX = 10_000
SCRIPT_BYTES_MAX = 16 * 1024 * 1024
"""Redis serves nobody else while a script runs: these take some tens of milliseconds."""
BEGINNING = b"0"
"""Of a scan of all keys, and what the last step of one answers."""


class RedisConnector:
    """A `Connector`."""

    capabilities = Capabilities(
        modes=frozenset({Mode.APPEND, Mode.UPSERT, Mode.REPLICATE}),
        atomic_positions=True,
        partial_update=True,
        truncate=True,
        refuses_stale=True,
        parallel=True,
    )
    options_model: ClassVar[type[Options]] = RedisOptions

    def __init__(self) -> None:
        self._client: Client | None = None
        self._config: ConnectorConfig | None = None
        self._rows: RowWriter | None = None
        self._keys: list[str] = []
        self._positions: dict[int, int] = {}
        self._steps: list[_Step] = []

    def open(self, config: ConnectorConfig, contract: Contract, partitions: Sequence[int]) -> Mapping[int, int]:
        """Connect and read the positions."""
        options, self._rows = self._set_up(config, contract)
        self._client = Client(options, config.egress)
        self._client.check_server(may_evict=config.mode is not Mode.APPEND)
        self._rows.bound(self._client.value_bytes_max())
        held = self._client.positions(self._keys[0])
        self._positions = {partition: held[partition] for partition in partitions if partition in held}
        return dict(self._positions)

    def write(self, batch: EgressBatch, positions: Mapping[int, int]) -> Sequence[Refused]:
        """Keep the rows, as commands, until the flush."""
        assert self._rows is not None
        version, rows, refused = self._without_truncations(batch)
        if version is not None:
            self._steps.append(_Step(truncated=version))
        left = batch if len(rows) == len(batch) else batch.take(rows)
        rows_max = _rows_of_a_script(left)
        for start in range(0, len(left), rows_max):
            part = left if len(left) <= rows_max else left.take(np.arange(start, len(left))[:rows_max])
            prepared = self._rows.prepare(part)
            refused += [each._replace(row=int(rows[start + each.row])) for each in prepared.refused]
            self._stage(prepared.commands, _reached(part))
        self._stage(None, positions)
        return refused

    def flush(self) -> None:
        """Rows and positions, one script after the other."""
        assert self._client is not None
        while self._steps:
            step = self._steps[0]
            if step.truncated is not None:
                self._empty(self._client, step.truncated)
            moves = {each: (self._positions.get(each), following) for each, following in step.positions.items()}
            moved = self._client.run(request(self._keys, moves, step.commands, self._options()))
            if moved is not None:
                raise self._elsewhere(moved)
            self._positions.update(step.positions)
            self._steps.pop(0)

    def close(self) -> None:
        """Drop what is staged and the connection."""
        self._steps = []
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def check(self, config: ConnectorConfig, contract: Contract) -> Sequence[str]:
        """Whether the server answers this user, may hold positions, and takes the commands of a flush."""
        options, _ = self._set_up(config, contract)
        client = Client(options, config.egress)
        try:
            client.check_server(may_evict=config.mode is not Mode.APPEND)
            client.positions(self._keys[0])
            refused = client.refused(self._keys, _commands_of_a_flush(config, options, self._keys[0]))
            found = [f"{options.url}: the user may not run {name} here; give it that right" for name in refused]
            if client.is_replica():
                found.append(f"{options.url}: a replica takes no rows; name the primary")
        finally:
            client.close()
        return found

    def explain(self, config: ConnectorConfig, contract: Contract, batch: EgressBatch) -> Sequence[str]:
        """The commands of the first rows, and those of the positions."""
        options, rows = self._set_up(config, contract)
        version, left, refused = self._without_truncations(batch)
        prepared = rows.prepare(batch.take(left))
        prepared = replace(prepared, refused=[*refused, *prepared.refused])
        lines = readable(prepared, options, self._keys[0], _reached(batch))
        return lines if version is None else [emptying(options, options.rows_under(config), version), *lines]

    def positions(self, config: ConnectorConfig, contract: Contract) -> Mapping[int, int]:
        """Of the hash."""
        options, _ = self._set_up(config, contract)
        client = Client(options, config.egress)
        try:
            return client.positions(self._keys[0])
        finally:
            client.close()

    def rewind(
        self, config: ConnectorConfig, contract: Contract, before: Mapping[int, int], after: Mapping[int, int]
    ) -> None:
        """A flush without rows: one script."""
        options, _ = self._set_up(config, contract)
        self._client, self._positions = Client(options, config.egress), dict(before)
        try:
            self._stage(None, after)
            self.flush()
        finally:
            self.close()

    def _set_up(self, config: ConnectorConfig, contract: Contract) -> tuple[RedisOptions, RowWriter]:
        """Everything that needs no server."""
        options = config.options
        assert isinstance(options, RedisOptions)
        options.fits(config)
        _check_columns(config, options, contract)
        under = options.rows_under(config)
        self._config, self._steps = config, []
        self._keys = [f"{OWN_KEYS}positions:{config.egress}:{config.topic}:{under}"]
        if config.mode is Mode.APPEND:
            self._keys.append(under)
        return options, RowWriter(contract, config.mode, options, under)

    def _options(self) -> RedisOptions:
        assert self._config is not None
        options = self._config.options
        assert isinstance(options, RedisOptions)
        return options

    def _without_truncations(self, batch: EgressBatch) -> tuple[int | None, Indexes, list[Refused]]:
        """The version of the newest truncation, the rows to be written after it, and truncations that cannot be
        followed: without versions one would remove rows that came after it."""
        rows = np.arange(len(batch))
        is_truncation = batch.operation == Operation.TRUNCATE
        if not is_truncation.any():
            return None, rows, []
        if self._options().version_field is None:
            message = "the source table was emptied; rows from before are only known by a `version_field`"
            refused = [Refused(row, "redis.truncate", message) for row in rows[is_truncation].tolist()]
            return None, rows[~is_truncation], refused
        version, _ = batch.since_truncate(refuses_stale=True)
        assert version is not None
        return version, rows[~is_truncation & (batch.version >= version)], []

    def _empty(self, client: Client, version: int) -> None:
        """Remove the rows from before `version`, in steps; positions follow with the rows behind it."""
        assert self._config is not None
        options, cursor = self._options(), BEGINNING
        under = options.rows_under(self._config)
        while True:
            told = client.empty(empty_request(self._keys[0], self._positions, options, under, version, cursor))
            if isinstance(told, Moved):
                raise self._elsewhere(told)
            if told == BEGINNING:
                return
            cursor = told

    def _elsewhere(self, moved: Moved) -> PositionMoved:
        return PositionMoved(
            f"{self._keys[0]}: partition {moved.partition} is at {moved.held}, this process left it at"
            f" {self._positions.get(moved.partition)}",
            cure="run this egress in one place; where Redis was emptied, rows come again",
        )

    def _stage(self, commands: Commands | None, positions: Mapping[int, int]) -> None:
        """Add to the last step while it has room."""
        if not self._steps or not self._steps[-1].has_room(commands, positions):
            self._steps.append(_Step())
        self._steps[-1].add(commands, positions)


@dataclass(slots=True)
class _Step:
    """What one script does."""

    truncated: int | None = None
    """Rows that are older are removed before."""
    commands: list[Commands] = field(default_factory=list)
    positions: dict[int, int] = field(default_factory=dict)
    rows: int = 0
    bytes: int = 0

    def has_room(self, commands: Commands | None, positions: Mapping[int, int]) -> bool:
        if len(self.positions.keys() | positions.keys()) > PARTITIONS_MAX:
            return False
        if commands is None or not self.rows:
            return True
        return (
            self.rows + len(commands.rows) <= SCRIPT_ROWS_MAX and self.bytes + commands.rows.nbytes <= SCRIPT_BYTES_MAX
        )

    def add(self, commands: Commands | None, positions: Mapping[int, int]) -> None:
        if commands is not None and len(commands.rows):
            self.commands.append(commands)
            self.rows += len(commands.rows)
            self.bytes += commands.rows.nbytes
        self.positions.update(positions)


def _commands_of_a_flush(config: ConnectorConfig, options: RedisOptions, positions: str) -> list[tuple[str, ...]]:
    """With keys and values as a row would have them."""
    row = options.rows_under(config)
    written: list[tuple[str, ...]] = []
    if config.mode is Mode.APPEND:
        written = [("TYPE", row), ("XADD", row, "*", "field", "value")]
    elif options.format is Format.JSON:
        written = [("UNLINK", row), ("GET", row), ("SET", row, "{}")]
    else:
        written = [("UNLINK", row), ("TYPE", row), ("HDEL", row, "field"), ("HSET", row, "field", "value")]
        written += [] if options.version_field is None else [("HGET", row, options.version_field)]
        written += [] if options.ttl_seconds is None else [("EXPIRE", row, "1")]
    held = [("TYPE", positions), ("HGET", positions, "0"), ("HSET", positions, "0", "0"), ("HDEL", positions, "0")]
    return [*held, *written]


def _rows_of_a_script(batch: EgressBatch) -> int:
    """By the size of the rows in memory, which is near that of their text."""
    row_bytes = int(batch.rows.nbytes) // max(1, len(batch)) + 1
    return max(1, min(SCRIPT_ROWS_MAX, SCRIPT_BYTES_MAX // row_bytes))


def _reached(batch: EgressBatch) -> dict[int, int]:
    """The offset after the last row of each partition: where Redis stands when it has these rows."""
    table = pa.table({"partition": batch.partition, "offset": batch.offset}).group_by("partition")
    found = table.aggregate([("offset", "max")])
    ends = pc.add(found.column("offset_max"), 1).to_pylist()
    return dict(zip(found.column("partition").to_pylist(), ends, strict=True))


def _check_columns(config: ConnectorConfig, options: RedisOptions, contract: Contract) -> None:
    columns = len(contract.schema.fields)
    if options.format is Format.HASH and columns > FIELDS_MAX:
        message = f"egress {config.egress!r}: {columns:,} columns; a hash is written with at most {FIELDS_MAX:,}"
        raise TargetInvalid(message, cure="choose `columns`, or set `format: json`")
    if options.version_field in {each.name for each in contract.schema.fields}:
        message = f"egress {config.egress!r}: the contract has a column {options.version_field!r} of its own"
        raise TargetInvalid(message, cure="give `version_field` another name")
