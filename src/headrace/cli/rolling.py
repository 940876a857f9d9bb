"""What SIGHUP means to `headrace run`: every worker is replaced, one at a time.

Owns the thread that waits for it.

- The workspace is read and compared with the environment first, by a process of its own, which finds every file as it
  is now: with a mistake in it, or changes that were not applied, no worker is touched.
"""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.cli.output import note

if TYPE_CHECKING:
    from headrace.workspace.supervisor import Supervisor

LOOK_INTERVAL_S = 0.2


@contextmanager
def replacing_on(
    hangup: threading.Event, supervisor: Supervisor, root: Path, environment: str, components: Sequence[str]
) -> Iterator[None]:
    """Replace the workers each time `hangup` is set, for as long as the context lasts.

    `components` is the command that tells what a worker is to run, by the workspace as it is then, or what is wrong.
    """
    over = threading.Event()
    arguments = (over, hangup, supervisor, root, environment, components)
    thread = threading.Thread(target=_wait, args=arguments, name="rolling", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _wait(
    over: threading.Event,
    hangup: threading.Event,
    supervisor: Supervisor,
    root: Path,
    environment: str,
    components: Sequence[str],
) -> None:
    while not over.is_set():
        if hangup.wait(LOOK_INTERVAL_S):
            hangup.clear()
            _replace(supervisor, root, environment, components)


def _replace(supervisor: Supervisor, root: Path, environment: str, components: Sequence[str]) -> None:
    from headrace.workspace.rolling import is_up
    from headrace.workspace.status import ComponentKind

    asked = subprocess.run(components, cwd=root, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False)
    if asked.returncode != 0:
        # It has said why.
        note("no worker is replaced")
        return
    wanted = [(ComponentKind(kind), name) for kind, name in json.loads(asked.stdout)]
    note(f"replacing {supervisor.workers} worker{'s' if supervisor.workers > 1 else ''}, one at a time")
    supervisor.replace_all(lambda pid: is_up(root, environment, pid, wanted))
