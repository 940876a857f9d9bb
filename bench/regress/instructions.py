"""Instructions of the codec and the index, counted by valgrind's callgrind.

- Only the measured run is counted: counting is turned on before it and off behind it, from outside.
- Counts hardly depend on what else the machine does: one run of each side is enough, and a loss is what is above
  `FLOOR`.
- Hash tables, allocators and Polars' own choices move counts of one and the same code a little: that is the floor.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.regress.child_process import Child, NotComparable
from bench.regress.trees import Side
from bench.regress.verdict import Costs, Verdict, judge

FLOOR = 0.02
CONTROL_TIMEOUT_S = 120.0
RECORDS_MAX = 20_000
"""A run under valgrind takes fifty times as long."""


def count(base: Side, working: Side, names: Sequence[str], records: int) -> list[Verdict]:
    """A verdict on each workload; none, and a line that says so, where valgrind is not."""
    if shutil.which("valgrind") is None:
        print("no valgrind on the PATH: instructions are not counted", file=sys.stderr)
        return []
    records = min(records, RECORDS_MAX)
    verdicts = []
    with tempfile.TemporaryDirectory() as folder, _Counter(base, folder) as one, _Counter(working, folder) as other:
        for name in names:
            try:
                before, after = one.count(name, records), other.count(name, records)
            except NotComparable as reason:
                print(f"instructions of {name} cannot be compared: {reason}", file=sys.stderr)
                continue
            costs = Costs(before, before, after)
            verdicts.append(judge(name, records, [costs], floor=FLOOR, scale=1.0))
    return verdicts


class _Counter(Child):
    """A side under valgrind."""

    def __init__(self, side: Side, folder: str) -> None:
        self._out = Path(tempfile.mkdtemp(dir=folder)) / "counts"
        tool = ["--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={self._out}", "--log-file=/dev/null"]
        super().__init__(side, ["valgrind", *tool])

    def count(self, name: str, records: int) -> float:
        """Instructions of one run, after one that is not counted."""
        self.run(name, records)
        before = set(self._out.parent.iterdir())
        self._control("-i", "on")
        self.run(name, records)
        self._control("-i", "off")
        self._control("-d")
        totals = [_total(path) for path in set(self._out.parent.iterdir()) - before]
        return float(sum(totals))

    def _control(self, *command: str) -> None:
        done = subprocess.run(
            ["callgrind_control", *command, str(self.process.pid)],
            capture_output=True,
            text=True,
            timeout=CONTROL_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0 or "OK" not in done.stdout:
            raise NotComparable(f"callgrind_control {' '.join(command)} failed: {(done.stdout + done.stderr).strip()}")


def _total(path: Path) -> int:
    found = re.search(r"^totals: (\d+)", path.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    return int(found.group(1)) if found else 0
