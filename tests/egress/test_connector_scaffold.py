"""A connector from `headrace connector new`, outside this tree: it passes the suite as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from headrace.egress.connector_scaffold import ScaffoldRefused, write_connector

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_new_connector_passes_the_suite(tmp_path: Path) -> None:
    """Made, and its own tests run, in a folder of its own; nothing is skipped."""
    files = write_connector(tmp_path / "headrace-my-queue", "my-queue")
    assert Path("src/headrace_my_queue/connector.py") in files
    path = os.pathsep.join([str(ROOT / "src"), str(tmp_path / "headrace-my-queue" / "src")])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--basetemp", str(tmp_path / "target")],
        cwd=tmp_path / "headrace-my-queue",
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3_000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) >= 12
    assert "skipped" not in done.stdout


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    """A folder with something in it, and names that are none."""
    write_connector(tmp_path / "made", "queue")
    with pytest.raises(ScaffoldRefused, match="is not empty"):
        write_connector(tmp_path / "made", "queue")
    for name in ("Queue", "7up", "", "a_b", "../x"):
        with pytest.raises(ScaffoldRefused, match="no name of a connector"):
            write_connector(tmp_path / "other", name)
    assert not (tmp_path / "other").exists()
