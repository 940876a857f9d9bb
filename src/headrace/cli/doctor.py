"""`headrace doctor`: is everything here that headrace needs?

Owns the command. Exit code 1 when any check is an error.
"""

from __future__ import annotations

from dataclasses import asdict

import typer

from headrace.cli.options import EnvironmentOption, JsonOption, WorkspaceOption
from headrace.cli.output import EXIT_ERROR, console, emit_json

STYLES = {"ok": "green", "warning": "yellow", "error": "bold red"}


def doctor(json: JsonOption = False, workspace: WorkspaceOption = None, env: EnvironmentOption = None) -> None:
    """Look at Python, Java, connectors, the Kafka client, disk, workspace, log and registry."""
    from headrace.workspace.checkup import check_up

    checks = []
    for check in check_up(workspace, env):
        checks.append(check)
        if not json:
            cure = f" ({check.cure})" if check.cure and check.outcome != "ok" else ""
            text = f"{check.outcome.ljust(7)}  {check.name.ljust(11)}  {check.message}{cure}"
            console().print(text, style=STYLES[check.outcome], markup=False)
    if json:
        emit_json({"checks": [asdict(check) for check in checks]})
    if any(check.outcome == "error" for check in checks):
        raise typer.Exit(EXIT_ERROR)
