"""`headrace schema list|show|register`: the registry of an environment.

Owns these three commands; `check` is in `headrace.cli.schema` and needs no environment.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.cli.options import EnvironmentOption, JsonOption, WorkspaceOption
from headrace.cli.output import emit_json, say, table
from headrace.cli.schema import app, read_schema
from headrace.errors import HeadraceError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headrace.contracts.registry import RegisteredSchema


__all__ = ["app"]


class UnknownSubject(HeadraceError):
    """A subject, or a version of one, that the registry does not have."""

    code = "cli.unknown_subject"


@app.command("list")
def list_subjects(json: JsonOption = False, workspace: WorkspaceOption = None, env: EnvironmentOption = None) -> None:
    """List the subjects of the registry."""
    from headrace.workspace.environment import open_environment

    with open_environment(workspace, env) as environment:
        registry = environment.registry
        found = [
            (subject, registry.latest(subject), registry.compatibility(subject)) for subject in registry.subjects()
        ]
    rows = [(latest, mode.value) for _, latest, mode in found if latest is not None]
    if json:
        emit_json({"subjects": [{**_version_json(latest), "compatibility": mode} for latest, mode in rows]})
        return
    table(
        ("subject", "version", "id", "compatibility", "schema"),
        [(latest.subject, latest.version, latest.id, mode, latest.schema.fullname) for latest, mode in rows],
    )


@app.command("show")
def show(
    subject: Annotated[str, typer.Argument(help="A subject, or a topic, which means its value.")],
    version: Annotated[int | None, typer.Option("--version", min=1, help="Default: the latest.")] = None,
    json: JsonOption = False,
    workspace: WorkspaceOption = None,
    env: EnvironmentOption = None,
) -> None:
    """Show a schema of the registry."""
    from json import dumps

    from headrace.workspace.environment import open_environment

    with open_environment(workspace, env) as environment:
        registry = environment.registry
        versions = registry.versions(subject) or registry.versions(f"{subject}-value")
        known = registry.subjects() if not versions else ()
    found = _version(subject, version, versions, known)
    if json:
        emit_json({**_version_json(found), "schema": found.schema.definition})
        return
    say(f"subject {found.subject}, version {found.version} of {len(versions)}, id {found.id}, guid {found.guid}")
    say(dumps(found.schema.definition, indent=2, ensure_ascii=False))


@app.command("register")
def register(
    subject: Annotated[str, typer.Argument(help="Subject, such as orders-value.")],
    file: Annotated[Path, typer.Argument(help="The schema, an .avsc file.")],
    json: JsonOption = False,
    workspace: WorkspaceOption = None,
    env: EnvironmentOption = None,
) -> None:
    """Register a schema by hand; schemas of contracts are registered by `headrace apply`."""
    from headrace.workspace.environment import open_environment

    schema = read_schema(file)
    with open_environment(workspace, env) as environment:
        made = environment.registry.register(subject, schema)
    if json:
        emit_json(_version_json(made))
    else:
        say(f"{made.subject}: version {made.version}, id {made.id}")


def _version(
    subject: str, version: int | None, versions: Sequence[RegisteredSchema], known: Sequence[str]
) -> RegisteredSchema:
    from headrace.workspace.errors import did_you_mean

    if not versions:
        raise UnknownSubject(f"the registry has no subject {subject!r}", cure=did_you_mean(subject, known))
    if version is None:
        return versions[-1]
    for each in versions:
        if each.version == version:
            return each
    numbers = ", ".join(str(each.version) for each in versions)
    raise UnknownSubject(f"subject {subject!r} has no version {version}", cure=f"its versions: {numbers}")


def _version_json(found: RegisteredSchema) -> dict[str, Any]:
    return {
        "subject": found.subject,
        "version": found.version,
        "id": found.id,
        "guid": str(found.guid),
        "name": found.schema.fullname,
    }
