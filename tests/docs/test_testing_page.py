"""docs/testing.md: its tests pass in the workspace that it describes, and its table names what there is."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from headrace.testing import Driver

PAGE = Path(__file__).parent.parent.parent / "docs" / "testing.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = BLOCK.findall(TEXT)


@pytest.mark.timeout(120)
def test_the_tests_on_the_page_pass(tmp_path: Path) -> None:
    """Contract, pipeline and tests where the page says they are, run as it says."""
    (contract_text,) = (text for language, text in BLOCKS if language == "yaml")
    pipeline, *tests = (text for language, text in BLOCKS if language == "python")
    for folder in ("contracts", "pipelines"):
        (tmp_path / folder).mkdir()
    (tmp_path / "contracts" / "rides.yaml").write_text(contract_text)
    (tmp_path / "pipelines" / "fares.py").write_text(pipeline)
    for number, text in enumerate(tests):
        (tmp_path / f"test_{number}.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    wanted = sum(text.count("\ndef test_") for text in tests)
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) >= wanted >= 8


def test_every_method_is_in_the_table() -> None:
    """Each public name of the driver, with each of its arguments."""
    rows = dict(re.findall(r"^\| (`.*?`.*?) \| (.*) \|$", TEXT, re.MULTILINE))
    calls = " ".join(rows)
    for name, member in inspect.getmembers(Driver):
        if name.startswith("_") or name in ("close", "now"):
            continue
        assert re.search(rf"[`\s]{name}[(`]", calls), name
        if inspect.isfunction(member):
            for parameter in list(inspect.signature(member).parameters)[1:]:
                assert parameter in calls or name == "advance", f"{name}: {parameter}"
