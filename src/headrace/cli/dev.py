"""`headrace dev`: everything in one process, on the embedded log, reloaded on change.

Owns the loop: load, apply, run until a file changes, drain, again.

- A change that does not load is told and the loop waits for the next one; what ran before has drained by then.
- Files are looked at by size and time of change; nothing outside the workspace is watched.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.cli.options import EnvironmentOption, NamesArgument, WorkspaceOption
from headrace.cli.output import note, print_error
from headrace.cli.run_progress import telling_progress
from headrace.cli.stopping import stop_on_signals
from headrace.errors import HeadraceError

if TYPE_CHECKING:
    from headrace.workspace.config import WorkspaceFile

LOOK_INTERVAL_S = 0.5
WATCHED_SUFFIXES = (".toml", ".yaml", ".yml", ".avsc", ".py", ".sql")

Snapshot = dict[Path, tuple[int, int]]


class NotEmbedded(HeadraceError):
    """`headrace dev` applies changes without asking, so it keeps away from clusters."""

    code = "cli.not_embedded"


def dev(names: NamesArgument = None, workspace: WorkspaceOption = None, env: EnvironmentOption = None) -> None:
    """Apply and run everything in one process on the embedded log; reload when a file changes."""
    from headrace.cli.logging import set_up_logging
    from headrace.workspace.config import read_config

    set_up_logging()
    file = read_config(workspace)
    _check_embedded(file, env)
    # Relative paths in the workspace's files start at its root.
    os.chdir(file.root)
    stop = stop_on_signals()
    note(f"developing {file.config.name!r}: files are watched, Ctrl-C stops")
    while not stop.is_set():
        seen = snapshot(file.root)
        reload = threading.Event()
        watcher = threading.Thread(target=_watch, args=(file.root, seen, stop, reload), name="watch")
        watcher.start()
        try:
            _run_until(reload, names or [], file.root, env)
        except HeadraceError as error:
            print_error(error)
            reload.wait()
        finally:
            reload.set()
            watcher.join()


def snapshot(root: Path) -> Snapshot:
    """Size and time of change of every watched file of a workspace."""
    from headrace.workspace.place import LOCAL_FOLDER

    found: Snapshot = {}
    for path in root.rglob("*"):
        hidden = any(part.startswith(".") or part == "__pycache__" for part in path.relative_to(root).parts)
        if hidden or path.suffix not in WATCHED_SUFFIXES or LOCAL_FOLDER in path.parts:
            continue
        try:
            state = path.stat()
        except FileNotFoundError:
            continue  # Removed between listing and looking, as editors do when they save.
        found[path] = (state.st_size, state.st_mtime_ns)
    return found


def _check_embedded(file: WorkspaceFile, env: str | None) -> None:
    name = file.environment_name(env)
    if file.config.environments[name].log != "embedded":
        raise NotEmbedded(
            f"environment {name!r} is not embedded",
            where=file.where("environments", name, "log"),
            cure="use `headrace apply` and `headrace run` for it",
        )


def _watch(root: Path, seen: Snapshot, stop: threading.Event, reload: threading.Event) -> None:
    """Set `reload` when a file changes or `stop` is set."""
    while not reload.wait(LOOK_INTERVAL_S):
        now = snapshot(root)
        if stop.is_set():
            reload.set()
        elif now != seen:
            changed = sorted(
                str(path.relative_to(root)) for path in now.keys() | seen.keys() if now.get(path) != seen.get(path)
            )
            note(f"changed: {', '.join(changed)}")
            reload.set()


def _run_until(stop: threading.Event, names: list[str], root: Path, env: str | None) -> None:
    from headrace.workspace.apply import apply_plan
    from headrace.workspace.components import components
    from headrace.workspace.control import open_control
    from headrace.workspace.environment import connect
    from headrace.workspace.load import load
    from headrace.workspace.plan import make_plan
    from headrace.workspace.runtime import Runtime
    from headrace.workspace.slots import take_slot

    loaded = load(root)
    with (
        take_slot(root) as slot,
        connect(loaded.file, loaded.contracts, env) as environment,
        open_control(environment).watching() as control,
    ):
        plan = make_plan(loaded, environment)
        apply_plan(
            plan, loaded, environment, lambda change: note(f"{change.action.replace('_', ' ')}: {change.target}")
        )
        note(f"running {', '.join(loaded.names) or 'nothing yet'}")
        chosen = components(loaded, environment, slot.name, names, control=control)
        with telling_progress(root, environment.name):
            Runtime(root, environment.name, slot.name, chosen, stop, wanted=control.wanted).run()
        stop.wait()
