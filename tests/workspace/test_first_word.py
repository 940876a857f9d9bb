"""The first worker of a fleet: it speaks before others start, or ends the fleet."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from headrace.workspace.first_word import FirstWord, tell
from headrace.workspace.supervisor import Supervisor

from .test_supervisor import DRAINS, pids, until, up

SPEAKS_WHEN_TOLD = f"""
import os, pathlib, sys, time
from headrace.workspace.first_word import tell
folder = pathlib.Path(sys.argv[1])
(folder / f"first-{{os.getpid()}}").touch()
while not (folder / "well").exists():
    time.sleep(0.01)
tell(int(sys.argv[2]), "dev")
exec({DRAINS!r})
"""

REFUSES = """
import os, pathlib, sys
(pathlib.Path(sys.argv[1]) / f"first-{os.getpid()}").touch()
sys.exit(1)
"""

SPEAKS_LAST = """
import sys
from headrace.workspace.first_word import tell
tell(int(sys.argv[2]), "dev")
"""


@dataclass
class First:
    """A first worker by its script; the others drain."""

    script: str
    folder: Path
    word: FirstWord

    @property
    def command(self) -> Sequence[str]:
        return [sys.executable, "-c", self.script, str(self.folder), str(self.word.descriptor)]

    @property
    def descriptors(self) -> Sequence[int]:
        return (self.word.descriptor,)

    def spoke(self) -> Sequence[str] | None:
        return None if self.word.environment is None else [sys.executable, "-c", DRAINS, str(self.folder)]


class Fleet:
    """Three workers under a supervisor on a thread of the test."""

    def __init__(self, script: str, folder: Path, word: FirstWord) -> None:
        self.stop = threading.Event()
        first = First(script, folder, word)
        self.supervisor = Supervisor(first.command, 3, self.stop, backoff_first_s=0.01, first=first)
        self.status: int | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self.status = self.supervisor.run()

    def wait(self) -> int | None:
        self._thread.join(20)
        assert not self._thread.is_alive()
        return self.status


def test_others_start_after_the_first_has_spoken(tmp_path: Path) -> None:
    """A first worker that is killed before its word starts again, alone; after its word
    there are three, and all drain."""
    with FirstWord() as word:
        fleet = Fleet(SPEAKS_WHEN_TOLD, tmp_path, word)
        until(lambda: len(pids(tmp_path, "first")) == 1)
        os.kill(pids(tmp_path, "first")[0], signal.SIGKILL)
        until(lambda: len(pids(tmp_path, "first")) == 2)
        assert not up(tmp_path)
        (tmp_path / "well").touch()
        until(lambda: len(up(tmp_path)) == 3)
        fleet.stop.set()
        assert fleet.wait() == 0
        assert word.environment == "dev"
    assert (fleet.supervisor.restarts, len(list(tmp_path.glob("drained-*")))) == (1, 3)


def test_a_refused_first_worker_ends_all(tmp_path: Path) -> None:
    """No other worker starts, it does not start again, and the status is 1."""
    with FirstWord() as word:
        fleet = Fleet(REFUSES, tmp_path, word)
        assert fleet.wait() == 1
        assert word.environment is None
    assert len(pids(tmp_path, "first")) == 1
    assert not up(tmp_path)


def test_a_stop_before_the_first_word_is_a_clean_end(tmp_path: Path) -> None:
    """There is nothing to drain: the worker is interrupted, and no other starts."""
    with FirstWord() as word:
        fleet = Fleet(SPEAKS_WHEN_TOLD, tmp_path, word)
        until(lambda: len(pids(tmp_path, "first")) == 1)
        fleet.stop.set()
        assert fleet.wait() == 0
    assert not up(tmp_path)


def test_a_first_word_may_be_the_last(tmp_path: Path) -> None:
    """A worker that had nothing to do and ended at once is heard all the same: the others start."""
    with FirstWord() as word:
        fleet = Fleet(SPEAKS_LAST, tmp_path, word)
        until(lambda: len(up(tmp_path)) == 2)
        fleet.stop.set()
        assert fleet.wait() == 0


def test_the_word_is_kept() -> None:
    """It is None before it is told, and then what was told, again and again."""
    with FirstWord() as word:
        assert word.environment is None
        tell(os.dup(word.descriptor), "prod")
        assert [word.environment, word.environment] == ["prod", "prod"]
