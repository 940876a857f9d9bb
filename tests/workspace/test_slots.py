"""Slots and locks between processes of one machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from headrace.workspace.slots import take_slot, try_lock

HOLD = """
import pathlib, sys
from headrace.workspace.slots import take_slot
slot = take_slot(pathlib.Path(sys.argv[1]))
print(slot.number, flush=True)
sys.stdin.read()
"""


def test_lowest_free_slot(tmp_path: Path) -> None:
    """Slots count up while taken, and a freed one is the next to be taken."""
    first, second = take_slot(tmp_path), take_slot(tmp_path)
    assert (first.number, second.number) == (0, 1)
    assert first.name.endswith("-0")
    first.release()
    first.release()
    with take_slot(tmp_path) as again:
        assert again.name == first.name
    second.release()


def test_killed_process_frees_its_slot(tmp_path: Path) -> None:
    """A slot held by another process is taken until that process is killed, then free under the same name."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "0\n"
    with take_slot(tmp_path) as slot:
        assert slot.number == 1
    holder.kill()
    holder.communicate()
    with take_slot(tmp_path) as slot:
        assert slot.number == 0


def test_named_lock_has_one_holder(tmp_path: Path) -> None:
    """A component that runs once has one holder; another name is another lock."""
    held = try_lock(tmp_path, "ingress.planes")
    assert held is not None
    assert try_lock(tmp_path, "ingress.planes") is None
    other = try_lock(tmp_path, "ingress.airlines")
    assert other is not None
    held.release()
    again = try_lock(tmp_path, "ingress.planes")
    assert again is not None
    again.release()
    other.release()
