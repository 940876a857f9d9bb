"""The schema stage of a plan: which schemas to register, with the verdict on each.

Owns the comparison of the workspace's schemas with the registry's subjects.

- Each topic has the subject `<topic>-value`, and `<topic>-key` when its key is Avro.
- A subject's mode becomes the contract's before its schema is registered, so the verdict is by that mode.
- An incompatible schema is a problem with every reason in words; it is never registered.
- A compatible schema that understands the last version's bytes otherwise carries a warning; it is registered.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from headrace.contracts.avro import AvroSchema
from headrace.contracts.compatibility import Incompatibility, check
from headrace.contracts.compatibility_warnings import warnings
from headrace.contracts.contract import Contract, KeyEncoding, ValueFormat
from headrace.contracts.registry import RegisteredSchema, Registry
from headrace.workspace.changes import Change, Problem, RegisterSchema, SchemaVerdict, SetCompatibility


@dataclass(slots=True)
class SchemaStage:
    """What came of the comparison."""

    changes: list[Change] = field(default_factory=list)
    verdicts: list[SchemaVerdict] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def plan_schemas(contracts: Iterable[Contract], registry: Registry) -> SchemaStage:
    """Compare the schemas of `contracts` with the registry; only reads from it."""
    stage = SchemaStage()
    known = frozenset(registry.subjects())
    for contract in contracts:
        for subject, schema in subjects_of(contract):
            _subject(contract, subject, schema, registry, subject in known, stage)
    return stage


def subjects_of(contract: Contract) -> Iterator[tuple[str, AvroSchema]]:
    """The subjects of a contract's topic, with their schemas. Debezium registers its own."""
    if contract.format is not ValueFormat.AVRO:
        return
    if contract.key_schema is not None and contract.key_encoding is KeyEncoding.AVRO:
        yield f"{contract.topic}-key", contract.key_schema
    yield f"{contract.topic}-value", contract.value_schema


def _subject(
    contract: Contract, subject: str, schema: AvroSchema, registry: Registry, is_known: bool, stage: SchemaStage
) -> None:
    mode = contract.compatibility
    versions = registry.versions(subject) if is_known else ()
    current = registry.compatibility(subject)
    if current is not mode:
        stage.changes.append(SetCompatibility(subject, current, mode))
    if any(version.schema == schema for version in versions):
        stage.verdicts.append(SchemaVerdict(subject, mode, "unchanged"))
        return
    found = check(schema, [version.schema for version in versions], mode)
    if found:
        reasons = tuple(_reason(each, versions) for each in found)
        stage.verdicts.append(SchemaVerdict(subject, mode, "incompatible", reasons))
        stage.problems.append(_incompatible(contract, subject, reasons))
        return
    warned = tuple(each.sentence() for each in warnings(schema, versions[-1].schema)) if versions else ()
    stage.verdicts.append(SchemaVerdict(subject, mode, "compatible" if versions else "new", warnings=warned))
    stage.changes.append(RegisterSchema(subject, schema, len(versions) + 1, mode))


def _reason(found: Incompatibility, versions: Iterable[RegisteredSchema]) -> str:
    return found.sentence(f"version {list(versions)[found.against].version}")


def _incompatible(contract: Contract, subject: str, reasons: tuple[str, ...]) -> Problem:
    return Problem(
        "workspace.schema_incompatible",
        f"subject {subject!r} is {contract.compatibility.value} compatible and the new schema is not: "
        + "; ".join(reasons),
        contract.where,
        "change the schema as told, or choose another compatibility or topic",
    )
