"""`python -m bench regress`: it passes what is equal, fails what is slower, and says how much noise there was."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from bench.regress import trees
from bench.regress.child_process import Child, NotComparable
from bench.regress.instructions import _total
from bench.regress.trees import ROOT, Side
from bench.regress.verdict import Costs, judge

from bench import __main__ as bench

SLOWER = """

def _slowed(decode):
    def slow(self, *arguments, **named):
        import time

        end = time.process_time() + 0.25
        while time.process_time() < end:
            pass
        return decode(self, *arguments, **named)

    return slow


AvroCodec.decode = _slowed(AvroCodec.decode)
"""
TINY = ("--workloads", "decode", "--records", "2000", "--rounds", "3", "--bound", "1.0")
"""A bound of twice the time: two thousand records are over in milliseconds, and the machine has others to serve."""


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A copy of the working tree's sources that stands for it; nothing is compiled."""
    monkeypatch.setattr(trees, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(trees, "with_native", lambda side: side)
    copy = tmp_path / "working"
    shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def run(monkeypatch: pytest.MonkeyPatch, base: Path, working: Path, *arguments: str) -> int:
    monkeypatch.setattr("bench.regress.benchmark.revision", lambda name: Side(name, base))
    monkeypatch.setattr("bench.regress.benchmark.working_tree", lambda: Side("working tree", working))
    monkeypatch.setattr("sys.argv", ["bench", "regress", *TINY, *arguments])
    return bench.main()


@pytest.mark.slow
def test_the_same_code_is_no_loss(
    monkeypatch: pytest.MonkeyPatch, sources: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Exit status 0, and a line with the bound."""
    assert run(monkeypatch, ROOT, sources, "--json") == 0
    found = json.loads(capfd.readouterr().out)
    assert (found["workload"], found["records"], found["is_loss"]) == ("decode", 2000, False)
    assert found["base"] > 0
    assert found["bound"] >= 1.0


@pytest.mark.slow
def test_slower_code_is_a_loss(
    monkeypatch: pytest.MonkeyPatch, sources: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Exit status 1, and a line that says LOSS; the other way round it is a gain, with status 0."""
    codec = sources / "src" / "headrace" / "contracts" / "fastavro_codec.py"
    codec.write_text(codec.read_text(encoding="utf-8") + SLOWER, encoding="utf-8")
    assert run(monkeypatch, ROOT, sources) == 1
    assert re.search(r"^decode .* LOSS$", capfd.readouterr().out, re.MULTILINE)


@pytest.mark.slow
def test_a_revision_is_written_out_beside_the_working_tree(monkeypatch: pytest.MonkeyPatch, sources: Path) -> None:
    """Its own sources are used, and an unknown one is told."""
    side = trees.revision("HEAD")
    assert side.root.is_relative_to(trees.CACHE)
    assert (side.root / "src" / "headrace" / "errors.py").is_file()
    with Child(side) as child:
        assert child.hello["headrace"].startswith(str(side.root))
        assert not child.hello["native"]
        assert child.run("index", 1_000) > 0
    with pytest.raises(trees.RevisionUnknown, match="no revision 'no-such-branch' in this repository"):
        trees.revision("no-such-branch")


def test_what_one_side_cannot_do_is_told_and_no_loss(
    monkeypatch: pytest.MonkeyPatch, sources: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nothing was compared then: status 2."""
    (sources / "src" / "headrace" / "contracts" / "fastavro_codec.py").unlink()
    assert run(monkeypatch, ROOT, sources) == 2
    assert "decode cannot be compared: working tree: ModuleNotFoundError" in capfd.readouterr().err


def test_another_headrace_than_the_sides_own_is_refused(tmp_path: Path) -> None:
    """A folder without sources would compare the installed package with itself."""
    with pytest.raises(NotComparable):
        Child(Side("empty", tmp_path))


@pytest.mark.parametrize(
    ("rounds", "is_loss"),
    [
        ([Costs(1.0, 1.0, 1.2)] * 5, True),
        ([Costs(1.0, 1.0, 1.04)] * 5, False),
        ([Costs(1.0, 1.0, 0.5)] * 5, False),
        # The base differs from itself by as much.
        ([Costs(1.0, 1.3, 1.3), Costs(1.3, 1.0, 1.3), Costs(1.0, 1.3, 1.4)], False),
        # One bad round of nine does not make the noise large, nor a loss.
        ([Costs(1.0, 1.0, 1.0)] * 8 + [Costs(1.0, 1.0, 9.0)], False),
        ([Costs(1.0, 1.01, 1.2)] * 8 + [Costs(1.0, 9.0, 1.2)], True),
        # The working tree's own rounds are far apart.
        ([Costs(1.0, 1.0, 1.2), Costs(1.0, 1.0, 0.9), Costs(1.0, 1.0, 1.5)], False),
    ],
)
def test_verdicts(rounds: list[Costs], is_loss: bool) -> None:
    """A loss is beyond the noise and beyond five per cent."""
    assert judge("any", 100, rounds, floor=0.05).is_loss is is_loss


def test_costs_are_told_for_a_record() -> None:
    """In microseconds, from seconds."""
    verdict = judge("any", 1_000, [Costs(0.002, 0.004, 0.006)], floor=0.05)
    assert verdict.base == pytest.approx(3.0)
    assert verdict.working == pytest.approx(6.0)
    assert verdict.change == pytest.approx(1.0)


def test_unknown_workload(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named, with those there are."""
    monkeypatch.setattr("sys.argv", ["bench", "regress", "--workloads", "decod"])
    with pytest.raises(SystemExit, match="unknown workload 'decod': one of filter_project"):
        bench.main()


def test_totals_are_read_from_callgrinds_file(tmp_path: Path) -> None:
    """0 where it counted nothing."""
    path = tmp_path / "counts.1"
    path.write_text("version: 1\nevents: Ir\nsummary: 5\n\nfn=(1) main\n3 44939219\n\ntotals: 44939219\n")
    assert _total(path) == 44_939_219
    path.write_text("version: 1\n")
    assert _total(path) == 0
