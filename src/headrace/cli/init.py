"""`headrace init`: a new workspace that runs.

Owns the command and what it says to do next.

- The new workspace's `dev` environment is set up and its sample published, so the printed commands work one after the
  other as they stand, and there is something to see.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.output import say

NEXT = """
next:
  cd {name} && headrace plan && headrace apply && headrace run

then, in a second terminal in {name}:
  headrace read {result}
  headrace publish {topic} --value '{value}'
  headrace status
"""

SAMPLE_VALUE = '{"sensor": "s-1", "room": "kitchen", "celsius": 25.5, "measured_at": "2026-01-01T13:00:00Z"}'


def init(
    name: Annotated[str, typer.Argument(help="Folder to make; its name becomes the workspace's.")],
    bare: Annotated[bool, typer.Option("--bare", help="Write the files only; set up and publish nothing.")] = False,
) -> None:
    """Make a new workspace with a contract, a pipeline and sample data."""
    from headrace.workspace.scaffold import SAMPLE_RESULT, SAMPLE_TOPIC, write_scaffold

    folder = Path(name)
    files = write_scaffold(folder)
    say(f"made {folder}: {', '.join(str(path) for path in files if not path.name.startswith('.'))}")
    if not bare:
        _set_up(folder)
    shown = NEXT.format(name=name, result=SAMPLE_RESULT, topic=SAMPLE_TOPIC, value=SAMPLE_VALUE)
    say(shown.rstrip())


def _set_up(folder: Path) -> None:
    from headrace.ingress.batch_publisher import BatchPublisher
    from headrace.ingress.files import publish_file
    from headrace.workspace.apply import apply_plan
    from headrace.workspace.environment import connect
    from headrace.workspace.load import load
    from headrace.workspace.plan import make_plan
    from headrace.workspace.scaffold import SAMPLE_FILE, SAMPLE_TOPIC

    loaded = load(folder)
    # Always `dev`: HEADRACE_ENV may name an environment of another workspace, or a cluster.
    with connect(loaded.file, loaded.contracts, "dev") as environment:
        plan = make_plan(loaded, environment)
        apply_plan(plan, loaded, environment)
        with BatchPublisher(environment, name="headrace-init") as publisher:
            report = publish_file(publisher, SAMPLE_TOPIC, folder / SAMPLE_FILE)
    say(f"set up environment dev (embedded log) and published {report.published} sample records to {SAMPLE_TOPIC}")
