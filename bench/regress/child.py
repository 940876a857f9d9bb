"""One side of the comparison, in a process of its own.

Reads `WORKLOAD RECORDS` a line from standard input, runs it and answers with a line of JSON, until the input ends. Its
first line says which headrace it has.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import structlog

import headrace
from bench.regress.workloads import Prepared
from headrace.native import native


def main() -> None:
    answers = sys.stdout
    sys.stdout = sys.stderr  # What is printed by the way must not be taken for an answer.
    quiet = structlog.make_filtering_bound_logger(logging.ERROR)
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr), wrapper_class=quiet)

    def answer(**values: object) -> None:
        print(json.dumps(values), file=answers, flush=True)

    prepared = Prepared()
    answer(headrace=str(Path(headrace.__file__).parent), native=native is not None)
    for line in sys.stdin:
        name, records = line.split()
        try:
            answer(cpu_seconds=prepared.run(name, int(records)))
        except Exception as error:  # noqa: BLE001 - told to the parent: this side cannot do it
            answer(error=f"{type(error).__name__}: {error}"[:500])
    prepared.close()


if __name__ == "__main__":
    main()
