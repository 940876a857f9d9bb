"""Rows and positions in Redis, exactly once.

Owns the hash of positions and the keys under the egress's prefix, or its stream.

- Rows and positions are one script: after a crash of Redis both are there or neither, as far as Redis keeps anything.
- What Redis forgets, it forgets with its positions, so that it is delivered again from the topic.
- The script compares the positions first: a second process that delivers the same partition is found out.
- A flush of many rows is several scripts, each with the positions that belong to its rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
    Options,
    PositionMoved,
    Refused,
    TargetInvalid,
)
from headrace_redis.client import Client
from headrace_redis.options import OWN_KEYS, Format, RedisOptions
from headrace_redis.readable import readable
from headrace_redis.rows import RowWriter
from headrace_redis.script import FIELDS_MAX, PARTITIONS_MAX, Commands, request

SCRIPT_ROWS_MAX = 10_000
SCRIPT_BYTES_MAX = 16 * 1024 * 1024
"""Redis serves nobody else while a script runs: these take some tens of milliseconds."""


class RedisConnector:
    """A `Connector`."""

    capabilities = Capabilities(modes=frozenset({Mode.APPEND, Mode.UPSERT, Mode.REPLICATE}), atomic_positions=True)
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
        held = self._client.positions(self._keys[0])
        self._positions = {partition: held[partition] for partition in partitions if partition in held}
        return dict(self._positions)

    def write(self, batch: EgressBatch, positions: Mapping[int, int]) -> Sequence[Refused]:
        """Keep the rows, as commands, until the flush."""
        assert self._rows is not None
        refused: list[Refused] = []
        rows_max = _rows_of_a_script(batch)
        for start in range(0, len(batch), rows_max):
            part = batch if len(batch) <= rows_max else batch.take(np.arange(start, len(batch))[:rows_max])
            prepared = self._rows.prepare(part)
            refused += [each._replace(row=each.row + start) for each in prepared.refused]
            self._stage(prepared.commands, _reached(part))
        self._stage(None, positions)
        return refused

    def flush(self) -> None:
        """Rows and positions, one script after the other."""
        assert self._client is not None
        assert self._config is not None
        options = self._config.options
        assert isinstance(options, RedisOptions)
        while self._steps:
            step = self._steps[0]
            moves = {each: (self._positions.get(each), following) for each, following in step.positions.items()}
            command = request(
                self._keys,
                moves,
                step.commands,
                ttl_seconds=options.ttl_seconds,
                stream_rows_max=options.stream_rows_max,
            )
            moved = self._client.run(command)
            if moved is not None:
                raise PositionMoved(
                    f"{self._keys[0]}: partition {moved[0]} is at {moved[1]}, this process left it at"
                    f" {self._positions.get(moved[0])}",
                    cure="run this egress in one place; where Redis was emptied, rows come again",
                )
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
        return readable(rows.prepare(batch), options, self._keys[0], _reached(batch))

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
        rows = RowWriter(contract, config.mode, options.format, under, value_bytes_max=options.value_bytes_max)
        return options, rows

    def _stage(self, commands: Commands | None, positions: Mapping[int, int]) -> None:
        """Add to the last step while it has room."""
        if not self._steps or not self._steps[-1].has_room(commands, positions):
            self._steps.append(_Step())
        self._steps[-1].add(commands, positions)


@dataclass(slots=True)
class _Step:
    """What one script does."""

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
        written = [("UNLINK", row), ("SET", row, "{}")]
    else:
        written = [("UNLINK", row), ("HSET", row, "field", "value")]
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
