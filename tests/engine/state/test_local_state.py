"""State files: what was written comes back commit by commit; what was not written whole, or is damaged, never does."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.engine.changelog import DELTA, SNAPSHOT_FIRST, SNAPSHOT_MORE
from headrace.engine.local_state import LocalState, StateFile
from headrace.engine.snapshots import StatePlace

Commit = tuple[int, list[tuple[bytes, bytes]]]


def opened(folder: Path, topic_id: str = "t1", fingerprint: str = "f") -> StateFile:
    """The one file of these tests."""
    file = LocalState(folder).open(StatePlace("dev", "sales", "sum", 3, topic_id), fingerprint)
    assert file is not None
    return file


def content(file: StateFile) -> list[Commit]:
    """What it holds, as bytes."""
    return [(commit, [(kind, bytes(value)) for kind, value in messages]) for commit, messages in file.commits()]


def written(folder: Path, commits: int = 5) -> list[Commit]:
    """A file of some commits, and what is in it."""
    generator, file = random.Random(7), opened(folder)
    whole = [(n + 1, [(DELTA, generator.randbytes(50 * n + 1))] * (n % 3 + 1)) for n in range(commits)]
    for number, messages in whole:
        file.append(number, number * 10, messages)
    file.close()
    return whole


def test_commits_come_back_in_order_with_their_last_offset(tmp_path: Path) -> None:
    """After closing, and written on from there."""
    whole = written(tmp_path)
    file = opened(tmp_path)
    assert content(file) == whole
    assert (file.commit, file.offset) == (5, 50)
    file.append(6, 70, [(DELTA, b"more")])
    file.append(6, 90, [])
    file.close()
    again = opened(tmp_path)
    assert content(again) == [*whole, (6, [(DELTA, b"more")]), (6, [])]
    assert (again.commit, again.offset) == (6, 90)
    again.close()


def test_a_snapshot_replaces_what_was_before_it_when_it_is_whole(tmp_path: Path) -> None:
    """In pieces of bounded size; a snapshot that its writer did not finish leaves the old file."""
    whole = written(tmp_path)
    file = opened(tmp_path)
    file.append(6, 60, [(SNAPSHOT_FIRST, b"a" * 100)], is_complete=False, anew=True)
    file.close()
    file = opened(tmp_path)
    assert content(file) == whole
    file.append(6, 60, [(SNAPSHOT_FIRST, b"a" * 100)], is_complete=False, anew=True)
    file.append(6, 60, [(SNAPSHOT_MORE, b"b" * 100)])
    file.append(7, 61, [(DELTA, b"c")])
    file.close()
    file = opened(tmp_path)
    assert [number for number, _ in content(file)] == [6, 6, 7]
    assert (file.commit, file.offset, list(tmp_path.rglob("*.new"))) == (7, 61, [])
    file.close()


@pytest.mark.parametrize("other", [{"topic_id": "t2"}, {"fingerprint": "g"}])
def test_a_file_of_another_topic_or_meaning_is_thrown_away(tmp_path: Path, other: dict[str, str]) -> None:
    """A changelog that was made anew, or a step that was changed, begins without it."""
    written(tmp_path)
    file = opened(tmp_path, **other)
    assert (file.commit, content(file)) == (0, [])
    file.close()
    assert content(opened(tmp_path)) == []


def test_one_process_at_a_time_has_a_file(tmp_path: Path) -> None:
    """Whoever comes second goes without, until the first gives it up."""
    first, place = opened(tmp_path), StatePlace("dev", "sales", "sum", 3, "t1")
    assert LocalState(tmp_path).open(place, "f") is None
    first.close()
    opened(tmp_path).close()


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0, 1), bit=st.integers(0, 7), cut=st.booleans())
def test_damage_never_gives_other_commits(
    tmp_path_factory: pytest.TempPathFactory, share: float, bit: int, cut: bool
) -> None:
    """Cut anywhere, or with any bit turned in the head or a frame's head: a beginning of what was written, or nothing.
    (A bit in a message is found by the message's own checksum.)"""
    folder = tmp_path_factory.mktemp("state")
    whole = written(folder)
    (path,) = folder.rglob("*.state")
    raw = bytearray(path.read_bytes())
    at = int(share * (len(raw) - 1))
    raw = raw[:at] if cut else raw[:at] + bytes([raw[at] ^ (1 << bit)]) + raw[at + 1 :]
    path.write_bytes(raw)
    file = opened(folder)
    found = content(file)
    numbers = [number for number, _ in found]
    assert numbers == list(range(1, len(found) + 1))
    assert [[len(value) for _, value in messages] for _, messages in found] == [
        [len(value) for _, value in messages] for _, messages in whole[: len(found)]
    ]
    if cut:
        assert found == whole[: len(found)]
    file.append(file.commit + 1, 99, [(DELTA, b"next")])
    file.close()
    again = opened(folder)
    assert content(again)[-1] == (len(found) + 1, [(DELTA, b"next")])
    again.close()


def test_without_room_the_copy_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No error reaches the worker; what could mislead the next owner is gone."""
    written(tmp_path)
    file = opened(tmp_path)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    file.append(6, 60, [(DELTA, b"x")])
    file.append(7, 70, [(DELTA, b"x")])
    monkeypatch.undo()
    file.close()
    file = opened(tmp_path)
    assert (file.commit, list(tmp_path.rglob("*.state"))) == (0, [])
    file.close()
