"""`python -m tests.faults --seed S --minutes M [--json]`: see `tests.faults.runner`.

Prints each fault with its time, then the verdict. Ends with 0 when nothing differs, else with 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from tests.faults.catalogue import FAULTS, named
from tests.faults.runner import Applied, Report, run


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1, help="the order of faults (default: 1)")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long faults are applied (default: 10)")
    parser.add_argument("--only", action="append", metavar="FAULT", help="mix these alone; may be given again")
    parser.add_argument("--list", action="store_true", help="print the faults' names and end")
    parser.add_argument("--json", action="store_true", help="one JSON object at the end, nothing else")
    given = parser.parse_args()
    if given.list:
        print("\n".join(fault.name for fault in FAULTS))
        return 0
    faults = [named(name) for name in given.only] if given.only else FAULTS
    report = run(given.seed, given.minutes, faults=faults, tell=(lambda _: None) if given.json else tell)
    print(json.dumps(asdict(report)) if given.json else text(report), flush=True)
    return 0 if report.difference is None else 1


def tell(applied: Applied) -> None:
    """One line for a fault."""
    print(f"{applied.at}  {applied.second:7.1f} s  {applied.number:4d}  {applied.name}", flush=True)


def text(report: Report) -> str:
    """The end of a run for a person."""
    did = f"seed {report.seed}: {len(report.faults)} faults, {report.orders:,} orders, {report.verdicts} verdicts"
    if report.difference is None:
        return f"{did}: no difference"
    return f"{did}: DIFFERENCE\n{report.difference}\nfiles are kept in {report.folder}"


if __name__ == "__main__":
    sys.exit(main())
