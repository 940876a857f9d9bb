"""docs/recovery.md: its configuration is accepted, its commands exist, its names are those of the code."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest
from bench.recovery import benchmark

from headrace.engine import bulk_apply, changelog, snapshots
from headrace.workspace.config import WorkspaceFile

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "recovery.md"
TEXT = PAGE.read_text()


def test_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """The example is a part of a workspace that can be opened."""
    monkeypatch.setenv("STATE_KEY_ID", "id")
    monkeypatch.setenv("STATE_SECRET", "secret")
    (example,) = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    head = 'name = "a"\nenvironment = "prod"\n[environments.prod]\nlog = "kafka"\nbootstrap_servers = "b:1"\n'
    config = WorkspaceFile(PAGE, head + example).environment("prod").snapshots
    assert config is not None
    assert config.client["secret_access_key"] == "secret"
    snapshots.open_snapshots(config.url, config.client, ROOT)


def test_commands() -> None:
    """Every command line of the page is understood."""
    lines = [line.split("   ")[0] for line in TEXT.splitlines() if line.startswith("python -m bench recovery")]
    assert lines
    for line in lines:
        parser = argparse.ArgumentParser()
        benchmark.add_arguments(parser)
        arguments = parser.parse_args(shlex.split(line)[4:])
        assert set(arguments.only.split(",")) <= set(benchmark.MEASUREMENTS)


def test_numbers() -> None:
    """Bounds that the page tells are those of the code."""
    assert f"{bulk_apply.ROWS_MAX:,} rows waiting" in TEXT
    assert f"at least {changelog.DELTA_ROWS_PER_SNAPSHOT_MIN:,}" in TEXT
    assert changelog.DELTA_ROWS_PER_STATE_ROW == 3
    assert f"parts of {snapshots.PART_BYTES // 2**20} MiB" in TEXT
    assert f"The newest\n  {'two' if snapshots.KEPT == 2 else snapshots.KEPT} stay" in TEXT
    assert snapshots.RETRY_TIMEOUT_S == 30
