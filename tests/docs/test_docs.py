"""The documentation does not lie: links lead somewhere, commands and options exist, examples are valid."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command

from headrace.cli.application import application
from headrace.workspace.config import WorkspaceFile

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").glob("*.md")])

LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CALL = re.compile(r"`headrace ([a-z][^`]*)`")


def page_name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(path: Path, language: str) -> Iterator[str]:
    for found, text in BLOCK.findall(path.read_text(encoding="utf-8")):
        if found == language:
            yield text


def anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^a-z0-9 _-]", "", heading.lower()).replace(" ", "-") for heading in headings}


def options_by_command() -> dict[str, set[str]]:
    """Every command, subcommands as `schema list`, with the options it takes."""
    found: dict[str, set[str]] = {}

    def add(name: str, command: object) -> None:
        options = {option for parameter in command.params for option in parameter.opts}  # type: ignore[attr-defined]
        found[name] = options | {"--help"}
        for inner, subcommand in getattr(command, "commands", {}).items():
            add(f"{name} {inner}".strip(), subcommand)

    add("", get_command(application()))
    return found


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link names a file that is there, and every anchor a heading of it."""
    dead = []
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            dead.append(target)
    assert dead == []


def test_every_page_is_in_the_index() -> None:
    """Who looks for a page finds it in docs/README.md."""
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / target.partition("#")[0]).resolve() for target in LINK.findall(index.read_text())}
    assert {page for page in (ROOT / "docs").glob("*.md") if page != index} - linked == set()


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_commands_and_options_exist(page: Path) -> None:
    """Every `headrace ...` in running text names a command, and only options that it takes."""
    known = options_by_command()
    wrong = []
    for call in CALL.findall(page.read_text(encoding="utf-8")):
        words = call.split()
        name = " ".join(words[:2]) if " ".join(words[:2]) in known else words[0]
        options = set(re.findall(r"(?<![\w-])(--[a-z][a-z-]*)", call))
        if name not in known or not options <= known[name]:
            wrong.append(call)
    # The later commands that the README says are not there yet.
    assert [call for call in wrong if call not in ("dlq",)] == []


def test_every_command_is_documented() -> None:
    """Each command that is not hidden has a section in docs/cli.md, and each of its own options stands there."""
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    everywhere = {"--help", "-h", "--workspace", "-w", "--env", "-e", "--json", "--version"}
    missing = []
    for name, command in get_command(application()).commands.items():  # type: ignore[attr-defined]
        if command.hidden:
            continue
        section = re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
        if section is None:
            missing.append(name)
            continue
        options = {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
        missing.extend(f"{name} {option}" for option in options - everywhere if option not in section.group(1))
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_json_examples_are_json(page: Path) -> None:
    """What is shown as JSON can be parsed."""
    for text in blocks(page, "json"):
        json.loads(text)


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_toml_examples_are_workspaces(page: Path) -> None:
    """What is shown as a whole headrace.toml is accepted as one."""
    for text in blocks(page, "toml"):
        if "name" in tomllib.loads(text):
            WorkspaceFile(page, text)


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_python_examples_compile(page: Path) -> None:
    """What is shown as Python is Python."""
    for text in blocks(page, "python"):
        compile(text, str(page), "exec")
