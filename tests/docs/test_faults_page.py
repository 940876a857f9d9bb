"""docs/faults.md names tests that exist, and every fault that the seeded runner mixes."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.faults.catalogue import FAULTS

TESTS = Path(__file__).parent.parent
PAGE = (TESTS.parent / "docs" / "faults.md").read_text(encoding="utf-8")
NAME = re.compile(r"`([^`]+)`")
COLUMNS = 4


def rows() -> list[list[str]]:
    """The cells of every row of every table, without heads."""
    lines = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| ---")]
    cells = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines]
    return [row for row in cells if row[0] != "fault"]


def existing_tests() -> set[str]:
    """`module::function` of every fault test, and of those of the log."""
    found = set()
    for path in [*(TESTS / "faults").glob("test_*.py"), *(TESTS / "log").glob("test_*.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        found |= {f"{path.stem}::{name}" for name in names if name.startswith("test_")}
    return found


def test_every_row_is_whole() -> None:
    """A fault, what headrace does about it, and at least one test."""
    for row in rows():
        assert len(row) == COLUMNS, row
        assert all(row[:3]), row


def test_every_named_test_exists() -> None:
    """And is one of a fault."""
    named = {name for row in rows() for name in NAME.findall(row[2])}
    assert named, "the page names no test"
    assert named <= existing_tests()


def test_every_fault_of_the_mix_is_told_once() -> None:
    """The last column and the runner's list are the same."""
    told = [name for row in rows() for name in NAME.findall(row[3])]
    assert sorted(told) == sorted(fault.name for fault in FAULTS)


def test_every_module_of_faults_is_told_of() -> None:
    """A fault test that nobody can find in the table is none that anybody counts on."""
    of_the_machinery = {"test_proxy", "test_mix", "test_replay"}
    modules = {path.stem for path in (TESTS / "faults").glob("test_*.py")} - of_the_machinery
    assert modules <= {name.partition("::")[0] for row in rows() for name in NAME.findall(row[2])}
