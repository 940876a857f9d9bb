"""Run semantic cases (the format is in README.md) through the public API.

    python tests/semantics/run_cases.py FILE [FILE ...] [--splits one|all|random:N] [--case NAME] [--jobs N]

One line for each case that fails, with its first difference; then `N passed, M failed`. Exit status 1 if any failed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import sys
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

# A case is a handful of rows: threads cost more than they give. Before Polars is loaded.
os.environ.setdefault("POLARS_MAX_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from headrace.contracts.contract import Contract, TopicKind
from headrace.errors import HeadraceError
from headrace.flow.compile import compile_pipeline
from headrace.flow.plan import CompiledPipeline
from headrace.testing import Driver, OutputRecord
from tests.semantics.comparing import Found, Row, difference_by_batch, difference_by_input
from tests.semantics.topologies import Case, contracts_of, counts_null_values, pipeline_of, topic_of

ALL_CUTS_INPUTS_MAX = 10
"""Up to so many inputs `all` means every cut."""
RANDOM_CUTS = 256
NO_ROW = ("decode.null_key", "decode.null_value")
"""Dead letters that Kafka Streams counts as dropped records."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
CASES_PER_PROCESS_LEAST = 20
"""A process takes a second to start; fewer cases run here."""


class Topology:
    """A case, compiled once."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.contracts: dict[str, Contract] = {each.topic: each for each in contracts_of(case)}
        self._compiled: CompiledPipeline = compile_pipeline(pipeline_of(case), self.contracts)

    def run(self, sizes: Sequence[int]) -> tuple[list[Found], int]:
        """The rows of the output, each with its batch, and how many records were dropped."""
        inputs = iter(self.case["inputs"])
        with Driver(self._compiled, contracts=self.contracts) as driver:
            for size in sizes:
                with driver.batch():
                    self._feed(driver, [next(inputs) for _ in range(size)])
            found = [(row_of(record), record.batch) for record in driver.records("output")]
            letters = driver.dead_letters()
            refused = [letter for letter in letters if letter.code not in (*NO_ROW, "process.null_key")]
            if refused:
                raise RuntimeError(f"{refused[0].step}: {refused[0].message}")
            return found, driver.dropped.total() + sum(letter.code in NO_ROW for letter in letters)

    def _feed(self, driver: Driver, records: Sequence[dict[str, Any]]) -> None:
        for (topic, way), run in groupby(records, key=lambda record: self._way(record)):
            rows = list(run)
            times = [record["ts"] for record in rows]
            if way == "raw":
                for record in rows:
                    key = record["key"]
                    driver.publish_bytes(topic, None if key is None else key.encode(), None, time=record["ts"])
            elif way == "deleted":
                driver.delete(topic, [{"key": record["key"]} for record in rows], time=times)
            else:
                kept = [{"key": record["key"], "value": record["value"]} for record in rows]
                driver.publish(topic, kept, time=times)

    def _way(self, record: dict[str, Any]) -> tuple[str, str]:
        """Topic, and how the record gets there. A record without a value is no row of a stream, nor one without a key
        of a table: both are written as they are in Kafka. In windows a null value counts, so there it is a row."""
        topic, is_null = topic_of(self.case, record), record["value"] is None
        if self.contracts[topic].kind is TopicKind.EVENT:
            return topic, "raw" if is_null and not counts_null_values(self.case) else "published"
        return topic, "raw" if record["key"] is None else "deleted" if is_null else "published"


def row_of(record: OutputRecord) -> Row:
    """A record in the terms of the case."""
    columns = {**(record.key or {}), **(record.row or {})}
    key = next(iter(record.key.values())) if record.key else None
    bounds = [columns.get(name) for name in ("window_start", "window_end")]
    start, end = (None if bound is None else (bound - EPOCH) // timedelta(milliseconds=1) for bound in bounds)
    value = None if record.row is None else record.row["value"]
    return Row(key, start, end, None if value is None else str(value), record.timestamp_ms)


def cuts(name: str, inputs: int, splits: str) -> Iterator[list[int]]:
    """Sizes of consecutive batches."""
    if not inputs:
        return
    if splits == "all" and inputs <= ALL_CUTS_INPUTS_MAX:
        for bits in range(2 ** (inputs - 1)):
            yield _sizes([bool(bits >> gap & 1) for gap in range(inputs - 1)])
        return
    count = RANDOM_CUTS if splits == "all" else int(splits.removeprefix("random:"))
    chance = random.Random(zlib.crc32(name.encode()))
    for _ in range(count):
        share = chance.random()
        yield _sizes([chance.random() < share for _ in range(inputs - 1)])


def _sizes(is_cut: Sequence[bool]) -> list[int]:
    sizes = [1]
    for cut in is_cut:
        if cut:
            sizes.append(1)
        else:
            sizes[-1] += 1
    return sizes


def failure(case: Case, splits: str) -> str | None:
    """The first difference, or None for a case that passes."""
    try:
        return _failure(case, splits)
    except Exception as error:  # noqa: BLE001 - a case that cannot run fails, and says why
        text = error.message if isinstance(error, HeadraceError) else str(error)
        return f"{type(error).__name__}: {text}".splitlines()[0]


def _failure(case: Case, splits: str) -> str | None:
    topology = Topology(case)
    singles = [1] * len(case["inputs"])
    found, dropped = topology.run(singles)
    difference = difference_by_input(case, found) or _dropped_difference(case, dropped)
    if difference is not None or splits == "one":
        return difference
    one_by_one = [row for row, _ in found]
    for sizes in cuts(case["name"], len(singles), splits):
        if sizes == singles:
            continue
        found, dropped = topology.run(sizes)
        difference = difference_by_batch(case, found, sizes, one_by_one) or _dropped_difference(case, dropped)
        if difference is not None:
            return f"cut {sizes}: {difference}"
    return None


def _dropped_difference(case: Case, dropped: int) -> str | None:
    wanted = case.get("dropped")
    return None if wanted is None or wanted == dropped else f"{dropped} records dropped, not {wanted}"


def run(cases: Sequence[Case], splits: str, jobs: int) -> Iterator[tuple[str, str | None]]:
    """Name and first difference of each case, in order."""
    if jobs == 1 or splits == "one" or len(cases) < CASES_PER_PROCESS_LEAST:
        yield from ((case["name"], failure(case, splits)) for case in cases)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(cases)), mp_context=context) as pool:
        results = pool.map(failure, cases, [splits] * len(cases))
        yield from zip((case["name"] for case in cases), results, strict=True)


def _splits(text: str) -> str:
    kind, _, count = text.partition(":")
    if text in ("one", "all") or (kind == "random" and count.isdecimal()):
        return text
    raise argparse.ArgumentTypeError(f"{text!r} is not one, all or random:N")


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description="Run semantic cases.")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--splits", type=_splits, default="one", metavar="one|all|random:N")
    parser.add_argument("--case", metavar="NAME", help="only the case of this name")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="processes")
    options = parser.parse_args(arguments)
    cases = [case for file in options.files for case in json.loads(file.read_text(encoding="utf-8"))]
    chosen = [case for case in cases if options.case in (None, case["name"])]
    if not chosen:
        parser.error(f"there is no case {options.case!r}" if options.case else "there are no cases")
    failed = 0
    for name, difference in run(chosen, options.splits, options.jobs):
        if difference is not None:
            failed += 1
            print(f"{name}: {difference}", flush=True)
    print(f"{len(chosen) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
