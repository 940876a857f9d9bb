"""docs/benchmarks.md: its commands are understood, and it names every option, job, system and field."""

from __future__ import annotations

import argparse
import re
import shlex
from dataclasses import fields
from pathlib import Path
from types import ModuleType

import pytest
from bench.peers import benchmark as peers
from bench.peers.jobs import JOBS
from bench.peers.rows import Row
from bench.peers.systems import SYSTEMS
from bench.regress import benchmark as regress
from bench.regress import instructions, verdict
from bench.regress.workloads import WORKLOADS

TEXT = (Path(__file__).parent.parent.parent / "docs" / "benchmarks.md").read_text(encoding="utf-8")
COMMANDS = {"peers": peers, "regress": regress}


def parser_of(module: ModuleType) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return parser


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_understood(command: str) -> None:
    """Each line, with the names in it."""
    lines = [line.split("   ")[0] for line in TEXT.splitlines() if line.startswith(f"python -m bench {command}")]
    assert lines
    for line in lines:
        given = vars(parser_of(COMMANDS[command]).parse_args(shlex.split(line)[4:]))
        for name, known in (("jobs", JOBS), ("systems", SYSTEMS), ("workloads", WORKLOADS)):
            assert set((given.get(name) or "").split(",")) <= {"", *known}


def test_every_option_job_system_workload_and_field_is_there() -> None:
    """In code, or in the first column of a table."""
    options = {option for action in parser_of(peers)._actions for option in action.option_strings} - {"-h", "--help"}
    in_code = {name.split()[0] for name in re.findall(r"`([^`\n]+)`", TEXT)}
    assert options <= in_code
    assert set(SYSTEMS) <= in_code
    assert set(WORKLOADS) <= in_code
    assert {field.name for field in fields(Row)} <= in_code
    first = ", ".join(re.findall(r"^\| ([A-Z][^|]*) \|", TEXT, re.MULTILINE)).split(", ")
    assert set(JOBS) <= set(first)


def test_numbers() -> None:
    """Defaults that the page tells are those of the code."""
    assert f"orders of a run; {peers.RECORDS:,}." in TEXT
    assert f"of every topic; {peers.PARTITIONS}" in TEXT
    assert f"that has one; {peers.COMMIT_INTERVAL_MS} " in TEXT
    assert f"given up; {peers.LIMIT_S:.0f} " in TEXT
    assert f"L1-EOS; {peers.LATENCY_S:.0f} " in TEXT
    assert f"`--bound`, {verdict.FLOOR:.0%}".replace("%", " %") in TEXT
    assert f"its bound is {instructions.FLOOR:.0%}".replace("%", " %") in TEXT
    assert f"at most {instructions.RECORDS_MAX:,} records" in TEXT
    for job in JOBS.values():
        assert all(f"{keys:,}" in TEXT for keys in job.keys if keys)
    assert {SYSTEMS[name].share for name in ("quix", "bytewax", "pathway")} == {0.1}
    assert SYSTEMS["bytewax"].shares == {"tumbling_sum": 1 / 50}
    assert (SYSTEMS["faust"].share, SYSTEMS["faust"].shares) == (1 / 50, {"tumbling_sum": 1 / 200})
