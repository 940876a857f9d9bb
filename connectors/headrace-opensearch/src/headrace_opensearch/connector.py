"""Documents of one index, at least once, where a repeat changes nothing.

Owns one index: its making and its fields; `actions` has what a row becomes, `bulk` how it is sent.

- Repeats in any order end with the right documents.
- Before each write the index has the fields that it had, or is settled again: removed meanwhile, it is made anew.
- The answer to a bulk request has a verdict for each row; a refused one is refused with the index's own reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.egress.explained import ROWS_MAX, left_out, shown
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
from headrace_opensearch.actions import action_lines, document_ids
from headrace_opensearch.bulk import Bulk
from headrace_opensearch.client import Client, Reply
from headrace_opensearch.mapping import missing, properties
from headrace_opensearch.options import OpenSearchOptions

ID_BYTES_MAX = 512
"""What an index allows; one longer id would fail the whole request."""


class OpenSearchConnector:
    """A `Connector`."""

    capabilities = Capabilities(
        modes=frozenset({Mode.APPEND, Mode.UPSERT, Mode.REPLICATE}),
        atomic_positions=False,
        creates_table=True,
        refuses_stale=True,
        parallel=True,
        ordered=False,  # What is not taken at once comes behind others; versions keep each document right.
        stages=False,
    )
    options_model: ClassVar[type[Options]] = OpenSearchOptions

    def __init__(self) -> None:
        self._client: Client | None = None
        self._config: ConnectorConfig | None = None
        self._contract: Contract | None = None
        self._bulk: Bulk | None = None
        self._mapping: Any = None
        """Of the index, as it was settled last."""
        self._index = ""

    def open(self, config: ConnectorConfig, contract: Contract, partitions: Sequence[int]) -> Mapping[int, int]:
        """Make the index, or add the fields that it lacks."""
        options = self._set_up(config, contract)
        self._client = Client(options)
        self._bulk = Bulk(self._client, options, self._index)
        self._mapping = None
        self._settle()
        return {}

    def write(self, batch: EgressBatch, positions: Mapping[int, int]) -> Sequence[Refused]:
        """Send the rows; returns when each was taken or refused."""
        assert self._bulk is not None
        if not len(batch):
            return []
        self._settle()
        ids, lines = self._lines(batch)
        is_long = pc.greater(pc.binary_length(ids), ID_BYTES_MAX)
        refused = [
            Refused(row, "opensearch.key_too_long", f"an id has at most {ID_BYTES_MAX} bytes")
            for row in np.flatnonzero(is_long).tolist()
        ]
        refused += self._bulk.send(np.flatnonzero(pc.invert(is_long)), lines.filter(pc.invert(is_long)))
        return sorted(refused)

    def flush(self) -> None:
        """What was written is in the index's own log."""

    def close(self) -> None:
        """Drop the connection."""
        client, self._client, self._bulk = self._client, None, None
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
        _, actions = self._lines(batch.take(np.arange(min(len(batch), ROWS_MAX))))
        lines = [shown(line) for action in actions.to_pylist() for line in action.splitlines()]
        return [f"POST {self._index}/_bulk", *lines, *left_out(len(batch) - ROWS_MAX, "rows")]

    def _set_up(self, config: ConnectorConfig, contract: Contract) -> OpenSearchOptions:
        """Everything that needs no cluster."""
        options = config.options
        assert isinstance(options, OpenSearchOptions)
        self._config, self._contract = config, contract
        self._index = options.index or config.topic.lower()
        return options

    def _settle(self) -> None:
        """Make the index, or add what it lacks, unless it is as it was. Raises `TargetInvalid`."""
        assert self._client is not None
        assert self._config is not None
        assert self._contract is not None
        path = f"{self._index}/_mapping"
        found = self._client.ask("GET", path)
        if self._mapping is not None and found.status == 200 and found.body == self._mapping:
            return
        if found.status == 404:
            self._make()
            found = self._client.ask("GET", path)
        if (problem := self._no_mapping(found)) is not None:
            raise TargetInvalid(problem, cure="see that `url` names the cluster")
        added = self._missing(self._config, self._contract, found.body)
        if added:
            self._take(self._client.ask("PUT", path, {"properties": added}), "takes no field")
            found = self._client.ask("GET", path)
        self._mapping = found.body

    def _make(self) -> None:
        assert self._client is not None
        assert self._contract is not None
        made = {"mappings": {"dynamic": "strict", "properties": properties(self._contract)}}
        reply = self._client.ask("PUT", self._index, made)
        if reply.reason != "resource_already_exists_exception":
            self._take(reply, "cannot be made")

    def _take(self, reply: Reply, refusal: str) -> None:
        """Raise what the index says to a change of it, which holds no row."""
        assert self._config is not None
        if reply.status != 200:
            raise TargetInvalid(
                f"egress {self._config.egress!r}: index {self._index!r} {refusal}: {reply.status} {reply.told}",
                cure="see to it yourself, name another `index`, or choose `columns`",
            )

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

    def _lines(self, batch: EgressBatch) -> tuple[pa.LargeStringArray, pa.LargeBinaryArray]:
        """Ids, and the lines of a bulk request, for each row."""
        assert self._config is not None
        assert self._contract is not None
        ids = document_ids(batch, self._config, self._contract)
        return ids, action_lines(batch, ids, self._config, self._contract)
