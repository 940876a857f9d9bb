"""The hidden command by which a supervisor asks what a worker that starts now would run.

A process of its own: it sees every file as it is now, and the supervisor stays small.
"""

from __future__ import annotations

import sys
from contextlib import redirect_stdout

from headrace.cli.applied import check_applied, load_to_run
from headrace.cli.options import EnvironmentOption, NamesArgument, WorkspaceOption
from headrace.cli.output import emit_json


def components(names: NamesArgument = None, workspace: WorkspaceOption = None, env: EnvironmentOption = None) -> None:
    """What a worker that starts now is to run, as JSON. Tells what is wrong with the workspace or the environment."""
    from headrace.workspace.environment import connect
    from headrace.workspace.fleet import kinds_of

    # Standard output is the answer's, whatever the user's files print.
    with redirect_stdout(sys.stderr):
        loaded = load_to_run(names or [], workspace)
    with connect(loaded.file, loaded.contracts, env) as environment:
        check_applied(loaded, environment)
    emit_json([[kind, name] for name, kind in kinds_of(loaded).items() if not names or name in names])
