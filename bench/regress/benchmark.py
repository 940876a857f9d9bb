"""`python -m bench regress`: is the working tree slower than a revision?

Owns the options, the order of runs, what is printed and the exit status: 1 when something is slower by more than the
noise, 2 when nothing could be compared.

- Sides run in turn, one at a time, in another order each round; `verdict` says what is made of it.
- With `--instructions` the codec and the index are counted by valgrind too: that needs no quiet machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from bench.regress import instructions
from bench.regress.child_process import Child, NotComparable
from bench.regress.trees import RevisionUnknown, Side, revision, working_tree
from bench.regress.verdict import FLOOR, Costs, Verdict, judge
from bench.regress.workloads import COUNTED, WORKLOADS

RECORDS = 100_000
ROUNDS = 9


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--base", default="HEAD", metavar="REV", help="what the working tree is compared with")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--records", type=int, default=RECORDS)
    parser.add_argument("--workloads", default=",".join(WORKLOADS), help="names, separated by commas")
    parser.add_argument("--bound", type=float, default=FLOOR, help="the least loss that counts; 0.05 is five per cent")
    parser.add_argument(
        "--instructions", action="store_true", help="count instructions of codec and index, by valgrind"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def run(arguments: argparse.Namespace) -> int:
    """Compare, and tell."""
    names = arguments.workloads.split(",")
    unknown = [name for name in names if name not in WORKLOADS]
    if unknown:
        sys.exit(f"unknown workload {unknown[0]!r}: one of {', '.join(WORKLOADS)}")
    try:
        base, working = revision(arguments.base), working_tree()
    except RevisionUnknown as error:
        sys.exit(str(error))
    verdicts = compare(base, working, names, arguments.records, arguments.rounds, floor=arguments.bound)
    _tell(verdicts, "CPU µs", as_json=arguments.json)
    counted: list[Verdict] = []
    if arguments.instructions:
        counted = instructions.count(base, working, [name for name in names if name in COUNTED], arguments.records)
        _tell(counted, "instructions", as_json=arguments.json)
    every = [*verdicts, *counted]
    return 2 if not every else 1 if any(verdict.is_loss for verdict in every) else 0


def compare(
    base: Side, working: Side, names: Sequence[str], records: int, rounds: int, *, floor: float = FLOOR
) -> list[Verdict]:
    """A verdict on each workload that both sides can do."""
    verdicts = []
    with contextlib.ExitStack() as stack:
        sides = [stack.enter_context(Child(side)) for side in (base, base, working)]
        for name in names:
            try:
                costs = [_round(sides, number, name, records) for number in range(rounds)]
            except NotComparable as reason:
                print(f"{name} cannot be compared: {reason}", file=sys.stderr)
                continue
            verdicts.append(judge(name, records, costs, floor=floor))
    return verdicts


def _round(sides: Sequence[Child], number: int, name: str, records: int) -> Costs:
    """Each side once; who begins changes."""
    turn = number % len(sides)
    order = [*range(turn, len(sides)), *range(turn)]
    found = {each: sides[each].run(name, records) for each in order}
    return Costs(found[0], found[1], found[2])


def _tell(verdicts: Sequence[Verdict], unit: str, *, as_json: bool) -> None:
    for verdict in verdicts:
        if as_json:
            print(json.dumps({**asdict(verdict), "unit": unit, "is_loss": verdict.is_loss}), flush=True)
            continue
        word = "LOSS" if verdict.is_loss else "gain" if verdict.is_gain else "same"
        print(
            f"{verdict.workload:18} {verdict.base:10.3f} to {verdict.working:10.3f} {unit} a record"
            f"  {verdict.change:+7.1%}  noise {verdict.bound:.1%}  {word}",
            flush=True,
        )
