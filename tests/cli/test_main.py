"""What the command line does about errors, and how quickly it starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from headrace.cli import topics
from headrace.cli.application import COMMANDS, GROUPS, HIDDEN, application

from .conftest import Call


def test_user_error_is_one_paragraph(call: Call, tmp_path: Path) -> None:
    """A mistake of the user's is told with code, place and cure on standard error, without a traceback; exit code 1."""
    (tmp_path / "headrace.toml").write_text('name = "a"\nnmae = "b"\n')
    answer = call("topics", "--workspace", str(tmp_path))
    assert answer.code == 1
    assert answer.out == ""
    assert answer.err == (
        f"error[workspace.config_invalid] {tmp_path}/headrace.toml:2: unknown key 'nmae'; did you mean 'name'?\n"
    )


def test_unexpected_error_tells_how_to_see_more(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake of ours is told by name, with the way to its traceback, and shows that when asked."""

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("headrace.workspace.load.load", fail)
    answer = call("topics")
    assert answer.code == 1
    assert "ZeroDivisionError: ours" in answer.err
    assert "HEADRACE_TRACEBACK=1" in answer.err
    assert "Traceback" not in answer.err
    monkeypatch.setenv("HEADRACE_TRACEBACK", "1")
    monkeypatch.setattr(sys, "argv", ["headrace", "topics"])
    with pytest.raises(ZeroDivisionError):
        topics.topics()


@pytest.mark.parametrize(
    "words", [["nothing"], ["plan", "--nothing"], ["publish"], ["publish", "t", "--file", "absent"]]
)
def test_wrong_usage(call: Call, words: list[str]) -> None:
    """An unknown command or option, and a missing argument, exit with 2."""
    answer = call(*words)
    assert answer.code == 2
    assert "Usage" in answer.err


def test_version(call: Call) -> None:
    """The version is the distribution's."""
    assert call("--version").out.startswith("headrace 0.")


def test_help_loads_nothing_heavy() -> None:
    """Asking for help loads neither columns nor clients: that would take a second."""
    script = (
        "import sys\nfrom headrace.cli.application import application\napplication()\n"
        "heavy = ('polars', 'pyarrow', 'confluent_kafka', 'numpy', 'structlog', 'pydantic')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("name", [*COMMANDS, *HIDDEN, *GROUPS])
def test_a_command_is_made_alone(name: str) -> None:
    """Of the one that is called the same is made as among all, and of the others nothing."""
    alone, among_all = (get_command(application(words)) for words in (["--version", name, "--env", "x"], []))
    assert isinstance(alone, TyperGroup)
    assert isinstance(among_all, TyperGroup)
    assert list(alone.commands) == [name]
    assert list(among_all.commands) == [*COMMANDS, *HIDDEN, *GROUPS]
    shown = [(each.name, each.hidden, each.opts) for each in alone.commands[name].params]
    assert shown == [(each.name, each.hidden, each.opts) for each in among_all.commands[name].params]


def test_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    """`headrace ... | head -1` ends without a traceback."""
    command = f"{sys.executable} -m headrace.cli schema --help | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert "Traceback" not in done.stderr
