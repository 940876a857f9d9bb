"""docs/tutorial.md works as it stands: its files are written, its commands run, its table is filled."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import duckdb
import pytest

from headrace.cli.main import main

PAGE = (Path(__file__).parent.parent.parent / "docs" / "tutorial.md").read_text(encoding="utf-8")
STEP = re.compile(
    r"(?:`(?P<file>[\w/.]+)`(?:, [^`\n]*)?:\n\n)?^```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)

PLAN_CODES = (0, 2)
"""Nothing to change, changes."""


def steps() -> Iterator[tuple[str, str]]:
    """A file's path and text, or an empty path and a command, in the order of the page."""
    for found in STEP.finditer(PAGE):
        if found["kind"] == "sh":
            yield from (("", line) for line in found["text"].splitlines())
        elif found["file"]:
            yield found["file"], found["text"]


class Terminal:
    """Commands as typed. Those of headrace run in this process, which is quicker and the same."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys
        monkeypatch.delenv("HEADRACE_ENV", raising=False)
        self.go(folder)

    def go(self, folder: Path) -> None:
        self.folder = folder
        self._monkeypatch.chdir(folder)

    def run(self, command: str) -> tuple[int, str]:
        """Exit code, and all that was said."""
        words = shlex.split(command)
        if words[0] == "python":
            answer = subprocess.run(
                [sys.executable, *words[1:]], capture_output=True, text=True, timeout=60, check=False
            )
            return answer.returncode, answer.stdout + answer.stderr
        self._monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), "".join(self._capsys.readouterr())


@contextmanager
def workers(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """`headrace run`, as the page says until Ctrl-C."""
    with (folder / "run.log").open("w") as output:
        started = subprocess.Popen(
            [sys.executable, "-m", "headrace.cli", "run"], cwd=folder, text=True, stdout=output, stderr=output
        )
        try:
            yield started
        finally:
            if started.poll() is None:
                started.kill()
            started.wait()


def rooms(folder: Path) -> int:
    """Rows in the table that the page promises; none while it is not there or is being written."""
    try:
        with duckdb.connect(str(folder / "rooms.duckdb"), read_only=True) as database:
            (count,) = database.sql("SELECT count(*) FROM room_temperatures").fetchall()[0]
            return int(count)
    except duckdb.Error:
        return 0


def until_rooms(folder: Path, least: int) -> None:
    deadline = time.monotonic() + 60
    while rooms(folder) < least:
        assert time.monotonic() < deadline, (folder / "run.log").read_text()
        time.sleep(0.2)


def test_the_tutorial_works_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every command succeeds, what follows the run finds it running, and the database has each window once."""
    terminal, running = Terminal(tmp_path, monkeypatch, capsys), None
    done: list[str] = []
    with ExitStack() as stack:
        for file, text in steps():
            if file:
                (terminal.folder / file).parent.mkdir(exist_ok=True)
                (terminal.folder / file).write_text(text, encoding="utf-8")
            elif text.startswith("cd "):
                terminal.go(terminal.folder / text.removeprefix("cd "))
            elif text == "headrace run":
                running = stack.enter_context(workers(terminal.folder))
                until_rooms(terminal.folder, 27)
            else:
                code, said = terminal.run(text)
                assert code in (PLAN_CODES if text.startswith("headrace plan") else (0,)), f"{text}: {said}"
            done.append(file or text)
        assert running is not None
        # The reading of 13:00 that the page publishes closes the last windows of the sample.
        until_rooms(terminal.folder, 30)
        running.send_signal(signal.SIGINT)
        assert running.wait(60) == 0
    assert {"pipelines/hot.py", "egress/rooms.yaml", "service.py", "contracts/readings.yaml"} <= set(done)
    with duckdb.connect(str(terminal.folder / "rooms.duckdb"), read_only=True) as database:
        twice = "SELECT room, window_start FROM room_temperatures GROUP BY ALL HAVING count(*) > 1"
        assert database.sql(twice).fetchall() == []
    assert "version 2" in terminal.run("headrace schema show readings")[1]
