"""Looks at an egress before it runs: does its target take it, and what would it write?

Owns `validate_egress` and `dry_run_egress`.

- Nothing is changed: no table, no position, no offset, no group, no topic.
- A connector that cannot look or show (`Checks`, `Explains`) is told so, and the rest is done all the same.
- A dry run is bounded by records, by time and by what it shows, however many batches the records come in.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from headrace.contracts.arrow import to_frame
from headrace.egress.config import EgressConfig, connector_config
from headrace.egress.decoder import Decoder
from headrace.egress.errors import ConnectorFailed, EgressInvalid
from headrace.egress.explained import CHARACTERS_MAX as VALUE_CHARACTERS_MAX
from headrace.egress.explained import shown
from headrace.egress.sdk import Checks, Connector, ConnectorConfig, Contract, EgressBatch, Explains, load_connector
from headrace.egress.view import View
from headrace.errors import HeadraceError
from headrace.log.port import BEGINNING, Consumer, TopicPartition
from headrace.workspace.environment import Environment
from headrace.workspace.errors import UnknownName, did_you_mean
from headrace.workspace.load import Workspace

POLL_S = 0.5
WAIT_MAX_S = 10.0
"""Longest wait of a dry run for records that the topic should have."""
STATEMENTS_MAX = 100
"""Lines of statements that a dry run shows; each batch has a few, and each row that is shown one."""
STATEMENT_CHARACTERS_MAX = 20_000
"""Of these lines together."""


@dataclass(frozen=True, slots=True)
class Validation:
    """What stands in the way of one egress."""

    egress: str
    connector: str
    is_checked: bool
    """Whether the connector could look at its target; else the file alone was checked."""
    problems: Sequence[str]


@dataclass(slots=True)
class DryRun:
    """What an egress would write next."""

    egress: str
    positions: dict[int, int]
    """Where it stands: the next offset of each partition."""
    records: int = 0
    rows: int = 0
    deletions: int = 0
    filtered: int = 0
    skipped: int = 0
    dead_letters: Counter[str] = field(default_factory=Counter)
    """By code."""
    statements: list[str] = field(default_factory=list)
    """Empty where the connector cannot show any; the first ones, within `STATEMENTS_MAX` and
    `STATEMENT_CHARACTERS_MAX`."""
    statements_left_out: int = 0
    sample: list[dict[str, Any]] = field(default_factory=list)
    """The first rows, as the target would get them; of a long value the beginning."""


@dataclass(frozen=True, slots=True)
class Trial:
    """An egress with everything that its connector is opened with; nothing is open."""

    config: EgressConfig
    contract: Contract
    """Of the topic."""
    connector: Connector
    told: ConnectorConfig
    view: View


def validate_egress(workspace: Workspace, names: Sequence[str]) -> list[Validation]:
    """Ask the connectors of these egress, or of all, what stands in the way."""
    return [_validated(config, workspace) for config in chosen_egress(workspace, names)]


def _validated(config: EgressConfig, workspace: Workspace) -> Validation:
    is_checked = False
    try:
        trial = open_trial(config, workspace)
        if isinstance(trial.connector, Checks):
            is_checked = True
            problems = list(_checked(trial, trial.connector))
        else:
            problems = []
    except HeadraceError as error:
        problems = [str(error)]
    return Validation(config.name, config.connector, is_checked, problems)


def _checked(trial: Trial, connector: Checks) -> Sequence[str]:
    try:
        return connector.check(trial.told, trial.view.contract)
    except HeadraceError:
        raise
    except Exception as error:
        raise ConnectorFailed(trial.config.connector, "check", error) from error


def dry_run_egress(
    workspace: Workspace, environment: Environment, name: str, *, records_max: int, sample: int
) -> DryRun:
    """Read on from where the egress stands and show what would come of it."""
    (config,) = chosen_egress(workspace, [name])
    trial = open_trial(config, workspace)
    decoder = Decoder(config, trial.contract, environment.registry, trial.view, trial.connector.capabilities)
    consumer = environment.log.consumer()
    try:
        ends = _start(config, workspace, environment, consumer)
        made = DryRun(name, {each.partition: offset for each, offset in consumer.position(sorted(ends)).items()})
        decoder.restart(len(ends))
        deadline_s = time.monotonic() + WAIT_MAX_S
        while made.records < records_max and time.monotonic() < deadline_s:
            places = consumer.position(sorted(ends))
            if all(places[each] >= end for each, end in ends.items()):
                break
            for records in consumer.poll(records_max - made.records, POLL_S):
                decoded = decoder.decode(records)
                made.records += len(records)
                made.filtered += decoded.filtered
                made.skipped += decoded.skipped + decoded.truncates_skipped
                made.dead_letters.update(reason.code for reason in decoded.bad.values())
                _show(decoded.batch, trial, made, sample)
    finally:
        consumer.close()
    return made


def _start(
    config: EgressConfig, workspace: Workspace, environment: Environment, consumer: Consumer
) -> dict[TopicPartition, int]:
    """Set the consumer to where the egress's group stands; returns the ends of the partitions."""
    admin = environment.log.admin()
    try:
        description = admin.topics().get(config.topic)
        if description is None:
            raise EgressInvalid(
                f"environment {environment.name!r} has no topic {config.topic!r}", cure="run `headrace apply`"
            )
        partitions = [TopicPartition(config.topic, number) for number in range(description.partitions)]
        committed = admin.group_offsets(config.group(workspace.name))
        ends = dict(admin.end_offsets(partitions))
    finally:
        admin.close()
    consumer.assign({each: committed[each].offset if each in committed else BEGINNING for each in partitions})
    return ends


def _show(batch: EgressBatch, trial: Trial, made: DryRun, sample: int) -> None:
    deletions = int(batch.deletes().sum())
    made.deletions += deletions
    made.rows += len(batch) - deletions
    if len(batch) and isinstance(trial.connector, Explains):
        _add_statements(trial.connector.explain(trial.told, trial.view.contract, batch), made)
    missing = sample - len(made.sample)
    if missing > 0 and len(batch):
        rows = to_frame(batch.rows.slice(0, missing), trial.view.contract.schema).to_dicts()
        marks = batch.operation[:missing].tolist()
        made.sample += [
            {"operation": _WORDS[mark], **{name: _cut(value) for name, value in row.items()}}
            for mark, row in zip(marks, rows, strict=True)
        ]


def _add_statements(lines: Sequence[str], made: DryRun) -> None:
    """As many as there is room for; behind the first one that has none comes no other. The first is always shown."""
    for line in lines:
        room = STATEMENT_CHARACTERS_MAX - sum(map(len, made.statements))
        is_full = made.statements_left_out or len(made.statements) >= STATEMENTS_MAX or len(line) > room
        if made.statements and is_full:
            made.statements_left_out += 1
        else:
            made.statements.append(shown(line, STATEMENT_CHARACTERS_MAX))


def _cut(value: Any) -> Any:
    """A value of a row, or the beginning of a long one as text."""
    if isinstance(value, int | float) or value is None:
        return value
    text = value if isinstance(value, str | bytes) else str(value)
    return value if len(text) <= VALUE_CHARACTERS_MAX else shown(text)


_WORDS = ("upsert", "delete", "truncate")


def chosen_egress(workspace: Workspace, names: Sequence[str]) -> list[EgressConfig]:
    """These egress, or all. Raises `UnknownName`."""
    known = {each.name: each for each in workspace.egress}
    for name in names:
        if name not in known:
            raise UnknownName(f"workspace {workspace.name!r} has no egress {name!r}", cure=did_you_mean(name, known))
    return [known[name] for name in names] if names else list(known.values())


def open_trial(config: EgressConfig, workspace: Workspace) -> Trial:
    """Raises what does not fit: topic, connector, options, columns."""
    contract = workspace.topics.get(config.topic)
    if contract is None:
        cure = did_you_mean(config.topic, workspace.topics)
        raise EgressInvalid(f"topic {config.topic!r} has no contract", where=config.place("topic"), cure=cure)
    connector = load_connector(config.connector, where=config.place("connector"))
    return Trial(config, contract, connector, connector_config(config, connector), View(config, contract))
