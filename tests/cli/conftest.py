"""Running the command line as a user does, in this process or in one of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from headrace.cli.main import main


@dataclass(frozen=True)
class Answer:
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


Call = Callable[..., Answer]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """Calls the command line in this process: quick, and with everything that `main` does about errors."""
    monkeypatch.delenv("HEADRACE_ENV", raising=False)
    monkeypatch.delenv("HEADRACE_TRACEBACK", raising=False)

    def run(*words: str) -> Answer:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["headrace", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return Answer(int(ended.value.code or 0), out, err)

    return run


def spawn(*words: str, cwd: Path) -> subprocess.Popen[str]:
    """A process of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_ENV")}
    return subprocess.Popen(
        [sys.executable, "-m", "headrace.cli", *words],
        cwd=cwd,
        env=environment,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def process(*words: str, cwd: Path, timeout_s: float = 60.0) -> Answer:
    """A process of its own, until it ends."""
    running = spawn(*words, cwd=cwd)
    out, err = running.communicate(timeout=timeout_s)
    return Answer(running.returncode, out, err)
