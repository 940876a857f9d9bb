"""Documents of one index, at least once, where a repeat changes nothing.

Owns one index: its making, its fields, its documents.

- In append a document's id is topic, partition and offset: a repeat finds it there and is done.
- In upsert and replicate the id is the key, and the version that of the row in its source: a document that has a higher
  one stays. Repeats in any order end with the right documents.
- The answer to a bulk request has a verdict for each row; a refused one is refused with the index's own reason.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.contracts.shape import record_shape
from headrace.egress.explained import ROWS_MAX, left_out, shown
from headrace.egress.json_columns import TEXT, json_column, json_rows, json_string, text_column
from headrace.egress.sdk import (
    Capabilities,
    ConnectorConfig,
    Contract,
    EgressBatch,
    Mode,
    Options,
    Refused,
    TargetInvalid,
)
from headrace_opensearch.client import Client, Reply
from headrace_opensearch.mapping import missing, properties
from headrace_opensearch.options import OpenSearchOptions

ID_BYTES_MAX = 512
"""What an index allows; one longer id would fail the whole request."""
ATTEMPTS = 3
"""Of rows that the cluster has no room for at the moment; then the runner waits and begins again."""
ATTEMPT_PAUSE_S = 0.5
REASON_CHARACTERS = 300
_TAKEN = frozenset({200, 201, 409})
"""409: there already, or a newer one is."""


class OpenSearchConnector:
    """A `Connector`."""

    capabilities = Capabilities(
        modes=frozenset({Mode.APPEND, Mode.UPSERT, Mode.REPLICATE}),
        atomic_positions=False,
        creates_table=True,
        refuses_stale=True,
        stages=False,
    )
    options_model: ClassVar[type[Options]] = OpenSearchOptions

    def __init__(self) -> None:
        self._client: Client | None = None
        self._config: ConnectorConfig | None = None
        self._contract: Contract | None = None
        self._index = ""

    def open(self, config: ConnectorConfig, contract: Contract, partitions: Sequence[int]) -> Mapping[int, int]:
        """Make the index, or add the fields that it lacks."""
        options = self._set_up(config, contract)
        self._client = Client(options)
        fields = properties(contract)
        made = {"mappings": {"dynamic": "strict", "properties": fields}}
        found = self._client.ask("GET", f"{self._index}/_mapping")
        if found.status == 404:
            reply = self._client.ask("PUT", self._index, made)
            if reply.status == 200:
                return {}
            if reply.reason != "resource_already_exists_exception":
                raise TargetInvalid(
                    f"{options.url}: index {self._index!r} cannot be made: {reply.status} {reply.reason}",
                    cure="make it yourself, or name another `index`",
                )
            found = self._client.ask("GET", f"{self._index}/_mapping")
        if (problem := self._no_mapping(found)) is not None:
            raise TargetInvalid(problem, cure="see that `url` names the cluster")
        self._add_fields(config, contract, found.body)
        return {}

    def write(self, batch: EgressBatch, positions: Mapping[int, int]) -> Sequence[Refused]:
        """Send the rows; returns when each was taken or refused."""
        assert self._config is not None
        if not len(batch):
            return []
        actions = self._actions(batch)
        too_long = np.flatnonzero(pc.greater(pc.binary_length(self._ids(batch)), ID_BYTES_MAX))
        refused = [
            Refused(row, "opensearch.key_too_long", f"an id has at most {ID_BYTES_MAX} bytes")
            for row in too_long.tolist()
        ]
        rows = np.delete(np.arange(len(batch)), too_long)
        for chunk in self._chunks(rows, actions):
            refused += self._send(chunk, actions)
        return sorted(refused)

    def flush(self) -> None:
        """What was written is in the index's own log."""

    def close(self) -> None:
        """Drop the connection."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def check(self, config: ConnectorConfig, contract: Contract) -> Sequence[str]:
        """Whether the cluster answers this user, and its index is yet to be made or has fields that fit."""
        self._client = Client(self._set_up(config, contract))
        try:
            reply = self._client.ask("GET", f"{self._index}/_mapping")
        finally:
            self.close()
        if reply.status == 404 and reply.reason == "index_not_found_exception":
            return []
        if (problem := self._no_mapping(reply)) is not None:
            return [f"{problem}; see that `url` names the cluster"]
        self._missing(config, contract, reply.body)
        return []

    def explain(self, config: ConnectorConfig, contract: Contract, batch: EgressBatch) -> Sequence[str]:
        """The lines of the first rows in a bulk request."""
        self._set_up(config, contract)
        actions = self._actions(batch.take(np.arange(min(len(batch), ROWS_MAX))))
        lines = [shown(line) for action in actions for line in action.splitlines()]
        return [f"POST {self._index}/_bulk", *lines, *left_out(len(batch) - ROWS_MAX, "rows")]

    def _set_up(self, config: ConnectorConfig, contract: Contract) -> OpenSearchOptions:
        """Everything that needs no cluster."""
        options = config.options
        assert isinstance(options, OpenSearchOptions)
        self._config, self._contract = config, contract
        self._index = options.index or config.topic.lower()
        return options

    def _add_fields(self, config: ConnectorConfig, contract: Contract, told: Any) -> None:
        assert self._client is not None
        added = self._missing(config, contract, told)
        if not added:
            return
        reply = self._client.ask("PUT", f"{self._index}/_mapping", {"properties": added})
        if reply.status != 200:
            message = f"egress {config.egress!r}: index {self._index!r} takes no field: {reply.status} {reply.reason}"
            raise TargetInvalid(message, cure="add it yourself, or name another `index`")

    def _no_mapping(self, reply: Reply) -> str | None:
        """Why an answer does not tell of the index; None where it does."""
        if reply.status == 200 and isinstance(reply.body, dict):
            return None
        assert self._config is not None
        assert isinstance(self._config.options, OpenSearchOptions)
        told = f"answers {reply.status} {reply.reason}".rstrip()
        return f"{self._config.options.url}: {told} when asked for index {self._index!r}"

    def _missing(self, config: ConnectorConfig, contract: Contract, told: Any) -> Mapping[str, Any]:
        """Fields to add. Raises `TargetInvalid` for an index that cannot take the rows."""
        # An alias answers with the index that it stands for.
        mappings = [each["mappings"] for each in told.values()]
        if len(mappings) != 1:
            message = f"egress {config.egress!r}: {self._index!r} stands for {len(mappings)} indexes"
            raise TargetInvalid(message, cure="name one of them")
        existing = mappings[0].get("properties", {})
        return missing(contract, existing, config.drift, target=f"{config.egress}: index {self._index}")

    def _ids(self, batch: EgressBatch) -> pa.Array:
        assert self._config is not None
        assert self._contract is not None
        if self._config.mode is Mode.APPEND:
            names = [pa.array(values).cast(TEXT) for values in (batch.partition, batch.offset)]
            return pc.binary_join_element_wise(pa.scalar(self._config.topic, TEXT), *names, pa.scalar("-", TEXT))
        shapes = {child.name: child.shape for child in record_shape(self._contract.schema).children}
        parts = [json_column(batch.rows.column(name), shapes[name]) for name in batch.key]
        if len(parts) == 1:
            (name,) = batch.key
            texts = text_column(batch.rows.column(name), shapes[name])
            return texts.cast(TEXT) if pa.types.is_large_string(texts.type) else parts[0]
        inside = pc.binary_join_element_wise(*parts, pa.scalar(",", TEXT))
        return pc.binary_join_element_wise(pa.scalar("[", TEXT), inside, pa.scalar("]", TEXT), pa.scalar("", TEXT))

    def _actions(self, batch: EgressBatch) -> list[bytes]:
        """The lines of each row in a bulk request."""
        assert self._config is not None
        assert self._contract is not None
        ids = json_string(self._ids(batch))
        sources = json_rows(batch.rows, self._contract.schema)
        if self._config.mode is Mode.APPEND:
            lines = _joined('{"create":{"_id":', ids, "}}\n", sources, "\n")
        else:
            versions = pa.array(batch.version).cast(TEXT)
            head = _joined('{"_id":', ids, ',"version":', versions, ',"version_type":"external_gte"}}\n')
            written = _joined('{"index":', head, sources, "\n")
            lines = pc.if_else(pa.array(batch.deletes()), _joined('{"delete":', head), written)
        texts: list[bytes] = lines.cast(pa.large_binary()).to_pylist()
        return texts

    def _chunks(self, rows: Any, actions: Sequence[bytes]) -> Iterator[list[int]]:
        assert self._config is not None
        options = self._config.options
        assert isinstance(options, OpenSearchOptions)
        chunk: list[int] = []
        size = 0
        for row in rows.tolist():
            is_full = len(chunk) >= options.rows_per_request or size + len(actions[row]) > options.bytes_per_request
            if chunk and is_full:
                yield chunk
                chunk, size = [], 0
            chunk.append(row)
            size += len(actions[row])
        if chunk:
            yield chunk

    def _send(self, rows: Sequence[int], actions: Sequence[bytes]) -> list[Refused]:
        """One bulk request, again with the rows that there was no room for."""
        assert self._client is not None
        refused: list[Refused] = []
        for attempt in range(1, ATTEMPTS + 1):
            reply = self._client.ask("POST", f"{self._index}/_bulk", b"".join(actions[row] for row in rows))
            if reply.status == 413:
                return refused + self._send_halves(rows, actions)
            if reply.status != 200 or not isinstance(reply.body, dict):
                raise self._client.unavailable(f"a bulk request is answered with {reply.status} {reply.reason}")
            waiting: list[int] = []
            for row, item in zip(rows, reply.body["items"], strict=True):
                self._judge(row, item, waiting, refused)
            if not waiting:
                return refused
            rows = waiting
            if attempt < ATTEMPTS:
                time.sleep(ATTEMPT_PAUSE_S * attempt)
        raise self._client.unavailable(f"no room for {len(rows):,} rows")

    def _judge(self, row: int, item: Mapping[str, Any], waiting: list[int], refused: list[Refused]) -> None:
        ((action, told),) = item.items()
        status, error = told["status"], told.get("error", {})
        if status in _TAKEN or (action == "delete" and status == 404 and not error):
            return
        # 403: the index is blocked, of a full disk for example; 404: it was removed.
        if status in (403, 404, 429) or status >= 500:
            waiting.append(row)
            return
        cause = error.get("caused_by", {}).get("reason", "")
        reason = " ".join(f"{error.get('type')}: {error.get('reason')} {cause}".split())[:REASON_CHARACTERS]
        refused.append(Refused(row, "opensearch.refused", reason))

    def _send_halves(self, rows: Sequence[int], actions: Sequence[bytes]) -> list[Refused]:
        if len(rows) == 1:
            return [Refused(rows[0], "opensearch.too_large", f"{len(actions[rows[0]]):,} bytes")]
        middle = len(rows) // 2
        return self._send(rows[:middle], actions) + self._send(rows[middle:], actions)


def _joined(*pieces: pa.Array | str) -> pa.Array:
    texts = [pa.scalar(each, TEXT) if isinstance(each, str) else each for each in pieces]
    return pc.binary_join_element_wise(*texts, pa.scalar("", TEXT))
