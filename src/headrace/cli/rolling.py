"""What SIGHUP means to `headrace run`: every worker is replaced, one at a time.

Owns the thread that waits for it.

- The workspace is read and compared with the environment first: with a mistake in it, or changes that were not
  applied, no worker is touched.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.cli.output import note, print_error
from headrace.errors import HeadraceError

if TYPE_CHECKING:
    from headrace.workspace.rolling import Key
    from headrace.workspace.supervisor import Supervisor

Components = Callable[[], "Collection[Key]"]
"""What a worker is to run, by the workspace as it is now. Raises what is wrong with it."""
LOOK_INTERVAL_S = 0.2


@contextmanager
def replacing_on(
    hangup: threading.Event, supervisor: Supervisor, root: Path, environment: str, components: Components
) -> Iterator[None]:
    """Replace the workers each time `hangup` is set, for as long as the context lasts."""
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
    components: Components,
) -> None:
    while not over.is_set():
        if hangup.wait(LOOK_INTERVAL_S):
            hangup.clear()
            _replace(supervisor, root, environment, components)


def _replace(supervisor: Supervisor, root: Path, environment: str, components: Components) -> None:
    from headrace.workspace.rolling import is_up

    try:
        wanted = components()
    except HeadraceError as error:
        print_error(error)
        note("no worker is replaced")
        return
    note(f"replacing {supervisor.workers} worker{'s' if supervisor.workers > 1 else ''}, one at a time")
    supervisor.replace_all(lambda pid: is_up(root, environment, pid, wanted))
