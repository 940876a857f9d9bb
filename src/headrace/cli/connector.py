"""`headrace connector`: what is installed, and the beginning of one of your own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.options import JsonOption
from headrace.cli.output import emit_json, say, table

app = typer.Typer(help="List connectors, begin one of your own.", no_args_is_help=True)


@app.command("list")
def list_connectors(json: JsonOption = False) -> None:
    """List the installed connectors: modes, delivery, whether it takes several tasks, package."""
    from headrace.egress.capability_table import installed_connectors

    found = installed_connectors()
    if json:
        emit_json({"connectors": [each.to_json() for each in found]})
        return
    rows = [
        [
            each.name,
            ", ".join(each.modes),
            each.delivery,
            "several" if each.parallel else "one",
            f"{each.package} {each.version}",
        ]
        for each in found
    ]
    table(["connector", "modes", "delivery", "tasks", "package"], rows)


@app.command("new")
def new_connector(
    name: Annotated[str, typer.Argument(help="What `connector:` of an egress will say.", show_default=False)],
    directory: Annotated[
        Path | None, typer.Option(help="Folder to make the package in; default: here.", show_default=False)
    ] = None,
) -> None:
    """Make a package with a connector that works, its options, its conformance test and its page."""
    from headrace.egress.connector_scaffold import write_connector

    folder = (directory or Path()) / f"headrace-{name}"
    files = write_connector(folder, name)
    say(f"made {folder}: {', '.join(str(path) for path in files)}")
    say(f"\nnext:\n  cd {folder} && pip install -e . && python -m pytest")
