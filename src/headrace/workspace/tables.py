"""Answers to questions about tables, wherever in the fleet the rows are.

Owns the way of a question: to the partitions it is about, to who holds them, and back as one answer.

- A question that another process passed on is answered from what is here, or refused: one hop at most.
- A key is asked where its rows should lie. Where a producer chose the partition, finding nothing there is no answer:
  all other partitions are asked then.
- An answer is whole or it is none: when one owner cannot answer, `TableAway` says who.
- A question waits at most `ANSWER_TIMEOUT_S`, and at most `QUESTIONS_MAX` of them wait in one process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import polars as pl

from headrace.contracts.polars_types import from_frame
from headrace.engine.assembly import Assembly
from headrace.engine.held_tables import HeldTable
from headrace.engine.orders import Orders
from headrace.engine.queries import Answer, Question, answer
from headrace.errors import Fault, HeadraceError
from headrace.workspace.components import PipelineComponent
from headrace.workspace.control import ControlTopic
from headrace.workspace.environment import Environment
from headrace.workspace.json_values import as_json, python_rows
from headrace.workspace.load import Workspace
from headrace.workspace.runtime import Component
from headrace.workspace.table_directory import Listed, Places, TableDirectory
from headrace.workspace.table_errors import TableAway
from headrace.workspace.table_keys import key_frame
from headrace.workspace.table_owners import Owner, TableOwners

ANSWER_TIMEOUT_S = 5.0
"""Longer than a commit and a long batch; a worker that restores does not answer in time."""
QUESTIONS_MAX = 128
"""Waiting in one process; more are asked than it can answer."""
LIMIT_DEFAULT, LIMIT_MAX = 100, 1_000
"""Rows of one answer: it is made on the worker's thread, between two transactions."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question as people ask it."""

    listed: Listed
    key: Mapping[str, Any] | None
    """None: any rows."""
    limit: int = LIMIT_MAX
    window_start_ms: int | None = None

    def question(self, partitions: Sequence[int]) -> Question:
        keys = None if self.key is None else key_frame(self.listed.key, self.key)
        return Question(keys, tuple(partitions), self.limit, self.window_start_ms)


@dataclass(slots=True)
class Piece:
    """Rows of some partitions, as JSON has them."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    pending: list[bool] = field(default_factory=list)
    instances: list[str] = field(default_factory=list)
    more: bool = False

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Piece:
        return cls(list(body["rows"]), list(body["pending"]), list(body["instances"]), bool(body["more"]))

    def as_json(self) -> dict[str, Any]:
        return {"rows": self.rows, "pending": self.pending, "instances": self.instances, "more": self.more}


class Remote(Protocol):
    """The way to other processes."""

    async def ask(self, owner: Owner, partitions: Sequence[int]) -> Piece:
        """The same question to another process, about these partitions. Raises `TableAway`."""


class Tables:
    """The tables of a workspace, as one process of the fleet sees them. For one event loop."""

    def __init__(
        self, directory: TableDirectory, owners: TableOwners, places: Places, orders: Mapping[str, Orders]
    ) -> None:
        self.directory, self.owners = directory, owners
        self._places, self._orders = places, orders
        self._waiting = 0

    async def answer(self, asked: Asked, remote: Remote) -> Piece:
        """The rows that are asked for, wherever they are. Raises `TableAway`."""
        return await self._in_time(asked, self._answer(asked, remote))

    async def answer_here(self, asked: Asked, partitions: Sequence[int]) -> Piece:
        """The rows of partitions that are here. Raises `TableAway`."""
        return await self._in_time(asked, self._here(asked, partitions))

    async def _in_time(self, asked: Asked, answer: Coroutine[Any, Any, Piece]) -> Piece:
        if self._waiting >= QUESTIONS_MAX:
            answer.close()
            raise TableAway(f"{QUESTIONS_MAX} questions wait in this process", cure="ask again, less often")
        self._waiting += 1
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return await answer
        except TimeoutError as error:
            raise TableAway(
                f"table {asked.listed.name!r} gave no answer within {ANSWER_TIMEOUT_S:g} s: its worker restores or"
                " waits",
                cure="ask again in a moment",
            ) from error
        except HeadraceError as error:
            if error.fault is not Fault.RETRY or isinstance(error, TableAway):
                raise
            raise TableAway(error.message, cure=error.cure or "ask again in a moment") from error
        finally:
            self._waiting -= 1

    async def partitions(self, listed: Listed) -> tuple[int, ...]:
        """All partitions of a table."""
        return await asyncio.to_thread(self._places.all_of, listed)

    async def _here(self, asked: Asked, partitions: Sequence[int]) -> Piece:
        table, plan = asked.listed.table, asked.listed.plan
        orders = self._orders.get(table.pipeline)
        if orders is None:
            raise TableAway(f"pipeline {table.pipeline!r} does not run in this process", cure="ask another one")
        question = asked.question(partitions)

        def call(parts: Assembly) -> Answer:
            return answer(parts, plan, table, question)

        found = await asyncio.wrap_future(orders.ask(call))
        rows = rows_as_json(found.rows, asked.listed.maps)
        return Piece(rows, found.pending.tolist(), [self.owners.instance], found.is_cut)

    async def _answer(self, asked: Asked, remote: Remote) -> Piece:
        everywhere = await self.partitions(asked.listed)
        if asked.listed.table.holder.is_broadcast:
            owner = self.owners.anybody(asked.listed.table)
            if owner is None:
                raise TableAway(f"nobody runs pipeline {asked.listed.table.pipeline!r}", cure="start it")
            return await self._of(owner, asked, everywhere, remote)
        likely = None
        if asked.key is not None:
            likely = await asyncio.to_thread(self._places.of_key, asked.listed, asked.key)
        if likely is None:
            return await self._all(asked, everywhere, remote)
        found = await self._all(asked, [likely], remote)
        placed = asked.listed.table.placed_by
        if found.rows or (placed is not None and placed.is_own):
            return found
        return await self._all(asked, [each for each in everywhere if each != likely], remote)

    async def _all(self, asked: Asked, partitions: Sequence[int], remote: Remote) -> Piece:
        """Whoever holds these partitions, all at once."""
        by_owner = self._by_owner(asked.listed.table, partitions)
        pieces = await asyncio.gather(*(self._of(owner, asked, mine, remote) for owner, mine in by_owner.items()))
        return _together(pieces, asked.limit)

    def _by_owner(self, table: HeldTable, partitions: Sequence[int]) -> dict[Owner, list[int]]:
        owners = self.owners.of(table)
        grouped: dict[Owner, list[int]] = {}
        for partition in partitions:
            if partition not in owners:
                raise TableAway(
                    f"partition {partition} of table {table.name!r} is held by nobody now: it moves, or its pipeline"
                    f" {table.pipeline!r} does not run",
                    cure="ask again in a moment; see `headrace status`",
                )
            grouped.setdefault(owners[partition], []).append(partition)
        return grouped

    async def _of(self, owner: Owner, asked: Asked, partitions: Sequence[int], remote: Remote) -> Piece:
        if owner.instance == self.owners.instance:
            return await self._here(asked, partitions)
        return await remote.ask(owner, partitions)


def open_tables(
    workspace: Workspace,
    environment: Environment,
    instance: str,
    control: ControlTopic,
    components: Sequence[Component],
) -> Tables:
    """The tables of a workspace, asked in a process that runs these components."""
    orders = {each.name: each.orders for each in components if isinstance(each, PipelineComponent)}
    places = Places(environment.log, environment.registry, workspace.topics)
    return Tables(TableDirectory(workspace), TableOwners(control, instance), places, orders)


def _together(pieces: Sequence[Piece], limit: int) -> Piece:
    whole = Piece()
    for piece in pieces:
        whole.rows += piece.rows
        whole.pending += piece.pending
        whole.instances += piece.instances
        whole.more |= piece.more
    whole.more |= len(whole.rows) > limit
    whole.rows, whole.pending = whole.rows[:limit], whole.pending[:limit]
    return whole


def rows_as_json(frame: pl.DataFrame, maps: Collection[str] = ()) -> list[dict[str, Any]]:
    """Rows as `headrace read --json` shows those of the topic. `maps` are columns that are no lists of records."""
    rows: list[dict[str, Any]] = as_json(python_rows(from_frame(frame)))
    for row in rows if maps else ():
        row.update({name: [list(each.values()) for each in row[name]] for name in maps if row[name] is not None})
    return rows
