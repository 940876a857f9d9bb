"""The demo from the outside: make a workspace, run it with real worker processes, check it, say so.

Owns the demo's processes and its report. Any difference between the answers fails the command.
"""

from __future__ import annotations

import contextlib
import importlib.resources
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import duckdb
import polars as pl
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from headrace.cli.output import console, emit_json, say, table
from headrace.demo import oracle
from headrace.demo.airports import Airports, PostingAirports, PublishingAirports
from headrace.demo.database import SqliteFleet
from headrace.demo.replay import Fleet, records_in, replay
from headrace.demo.source_files import read_flights
from headrace.errors import HeadraceError
from headrace.ingress.violations import IngressInvalid
from headrace.log.port import Log
from headrace.testing.server_process import free_ports
from headrace.workspace.apply import apply_plan
from headrace.workspace.environment import Environment, connect
from headrace.workspace.load import load
from headrace.workspace.overview import group_lag
from headrace.workspace.plan import make_plan

KAFKA_VARIABLE = "HEADRACE_KAFKA"
POSTGRES_VARIABLE = "HEADRACE_POSTGRES"
"""A PostgreSQL server, as its superuser, for the second form; without it one is started."""
STALLED_S = 40.0
"""The job is over when nothing was committed for so long. A lost worker is back long before."""
SETTLE_S = 6.0
"""Rows that should not be there would come within this time: twice the pipeline's `idle_close`."""
STOP_TIMEOUT_S = 30.0
OUTPUT_TOPIC = "carrier.delays.hourly"


class WorkersDied(HeadraceError):
    """`headrace run` ended by itself."""

    code = "demo.workers_died"


@dataclass(frozen=True, slots=True)
class Report:
    """What the demo found; printed by `--json`."""

    rows_equal: bool
    rows: int
    rows_expected: int
    rows_missing: int
    rows_unexpected: int
    records: int
    records_per_second: float
    seconds: float
    log: str
    workspace: str | None


def run_demo(
    *,
    kafka: bool,
    services: bool,
    rows: int | None,
    batch_records_max: int | None,
    keep: Path | None,
    json_output: bool,
) -> int:
    """Run the demo; 0 when every row is equal, 1 otherwise."""
    tell = (lambda text: None) if json_output else say
    # As on Ctrl-C: broker and workers are stopped, the folder goes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with contextlib.ExitStack() as stack:
        if kafka:
            from headrace.testing.broker import running_broker

            tell("starting a Kafka broker")
            os.environ[KAFKA_VARIABLE] = stack.enter_context(running_broker()).bootstrap
        root = _make_workspace(keep, stack)
        if batch_records_max is not None:
            with (root / "headrace.toml").open("a") as config:
                config.write(f"\n[engine]\nbatch_records_max = {batch_records_max}\n")
        tell(f"workspace in {root}")
        form = _services(root, stack, tell) if services else _embedded(root)
        report, differences = _run(root, form, "kafka" if kafka else "dev", rows, tell, quiet=json_output, kept=keep)
    if json_output:
        emit_json(asdict(report))
    else:
        _show(report, differences)
    return 0 if report.rows_equal else 1


def _make_workspace(keep: Path | None, stack: contextlib.ExitStack) -> Path:
    """Copy the flights workspace."""
    if keep is not None and keep.exists() and any(keep.iterdir()):
        raise HeadraceError(f"{keep} is not empty", cure="name a new folder")
    root = keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headrace-demo-")))
    template = importlib.resources.files("headrace.demo") / "flights"
    with importlib.resources.as_file(template) as folder:
        shutil.copytree(folder, root, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    return root.resolve()


@dataclass(frozen=True, slots=True)
class _Form:
    """Where planes and airlines are, and how the flights come."""

    fleet: Fleet
    airports: Callable[[Environment, Callable[[], None]], contextlib.AbstractContextManager[Airports]]


def _embedded(root: Path) -> _Form:
    """The register in a SQLite file beside the workspace; flights through the SDK."""
    fleet = SqliteFleet(root / "fleet.db")
    fleet.create()
    return _Form(fleet, lambda environment, alive: PublishingAirports(environment))


def _services(root: Path, stack: contextlib.ExitStack, tell: Callable[[str], None]) -> _Form:
    """The register in PostgreSQL, captured from there; flights posted to the gateway."""
    try:
        from headrace.demo.postgres_fleet import fleet_database
    except ImportError as error:
        raise IngressInvalid(
            f"PostgreSQL's driver is not there: {error}", cure="pip install 'headrace[postgres]'"
        ) from error
    server_url = os.environ.get(POSTGRES_VARIABLE)
    if not server_url:
        from headrace.testing.postgres import running_postgres

        tell("starting PostgreSQL")
        server_url = stack.enter_context(running_postgres()).url
    fleet = stack.enter_context(fleet_database(server_url))
    token = secrets.token_hex(32)
    os.environ["FLEET_DATABASE"], os.environ["FLIGHTS_TOKEN"] = fleet.url, token
    shutil.copytree(root / "services" / "ingress", root / "ingress", dirs_exist_ok=True)
    (port,) = free_ports(1)
    gateway = root / "ingress" / "airports.yaml"
    gateway.write_text(gateway.read_text().replace("port: 8080", f"port: {port}"))

    @contextlib.contextmanager
    def airports(_: Environment, alive: Callable[[], None]) -> Iterator[Airports]:
        posting = PostingAirports(port, token, alive)
        posting.wait_until_ready()
        yield posting

    return _Form(fleet, airports)


def _run(
    root: Path,
    form: _Form,
    environment_name: str,
    rows: int | None,
    tell: Callable[[str], None],
    *,
    quiet: bool,
    kept: Path | None,
) -> tuple[Report, tuple[str, ...]]:
    workspace = load(root)
    flights = read_flights(rows)
    expected = oracle.answer(flights)
    with connect(workspace.file, workspace.contracts, environment_name) as environment:
        plan = make_plan(workspace, environment)
        apply_plan(plan, workspace, environment)
        tell(f"applied {len(plan.changes)} changes: topics, schemas, change capture")
        with _workers(root, environment_name) as alive:
            started = time.monotonic()
            with form.airports(environment, alive) as airports, _progress(flights.height, quiet=quiet) as advance:
                replay(environment, form.fleet, airports, flights, alive=alive, progress=advance)
            tell("all flights published; waiting for the last windows to close")
            [egress] = workspace.egress
            target = root / "delays.duckdb"
            groups = [f"{workspace.name}.{each.plan.name}" for each in workspace.pipelines]
            groups.append(egress.group(workspace.name))
            _wait_for_rows(environment.log, groups, target, expected.height, alive)
            seconds = time.monotonic() - started
            _settle(environment, alive)
        found = oracle.read_target(root / "delays.duckdb")
        log_name = environment.log.name
    comparison = oracle.compare(found, expected)
    if not quiet:
        _show_carriers(oracle.summary(root / "delays.duckdb"))
    report = Report(
        rows_equal=comparison.rows_equal,
        rows=comparison.rows,
        rows_expected=comparison.expected,
        rows_missing=comparison.missing,
        rows_unexpected=comparison.unexpected,
        records=flights.height,
        records_per_second=round(flights.height / seconds, 1),
        seconds=round(seconds, 2),
        log=log_name,
        workspace=str(root) if kept else None,
    )
    return report, comparison.examples


@contextlib.contextmanager
def _workers(root: Path, environment_name: str) -> Iterator[Callable[[], None]]:
    """`headrace run` as a process of its own; yields a check that it still lives."""
    log_path = root / ".headrace" / "workers.log"
    log_path.parent.mkdir(exist_ok=True)
    with log_path.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "headrace.cli", "run", "--env", environment_name],
            cwd=root,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def alive() -> None:
        if process.poll() is not None:
            tail = log_path.read_text(errors="replace")[-2000:]
            raise WorkersDied(f"`headrace run` ended with {process.returncode}:\n{tail}")

    try:
        yield alive
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _rows_in(target: Path) -> int:
    try:
        return oracle.count_target(target) if target.exists() else 0
    except duckdb.Error:
        # The connector holds the file, or has not made the table yet.
        return -1


def _wait_for_rows(log: Log, groups: Sequence[str], target: Path, expected: int, alive: Callable[[], None]) -> None:
    """Until the target holds as many rows as the batch answer, or none of `groups` moves any more; the last one is the
    connector's. Too few rows is a result, shown by the comparison."""
    before, moved_s = -1, time.monotonic()
    while time.monotonic() - moved_s < STALLED_S:
        alive()
        # The file is opened last: a reader keeps the connector out.
        if records_in(log, OUTPUT_TOPIC) >= expected:
            lag = group_lag(log, groups[-1], [OUTPUT_TOPIC])
            if lag is not None and not lag.records and _rows_in(target) >= expected:
                return
        now = sum(_committed(log, group) for group in groups)
        if now != before:
            before, moved_s = now, time.monotonic()
        time.sleep(0.2)


def _committed(log: Log, group: str) -> int:
    admin = log.admin()
    try:
        return sum(each.offset for each in admin.group_offsets(group).values())
    finally:
        admin.close()


def _settle(environment: Environment, alive: Callable[[], None]) -> None:
    """Give rows that should not be there the time to appear."""
    before, quiet_since = records_in(environment.log, OUTPUT_TOPIC), time.monotonic()
    while time.monotonic() - quiet_since < SETTLE_S:
        alive()
        time.sleep(0.2)
        now = records_in(environment.log, OUTPUT_TOPIC)
        if now != before:
            before, quiet_since = now, time.monotonic()


@contextlib.contextmanager
def _progress(total: int, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, plain lines elsewhere, nothing when quiet."""
    if quiet:
        yield lambda count: None
        return
    screen = console()
    if not screen.is_terminal:
        done = 0

        def line(count: int) -> None:
            nonlocal done
            before, done = done * 10 // total, done + count
            if done * 10 // total != before:
                say(f"{done:,} of {total:,} flights published")

        yield line
        return
    columns = (TextColumn("flights published"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=screen) as bar:
        task = bar.add_task("flights", total=total)
        yield lambda count: bar.update(task, advance=count)


def _show_carriers(carriers: pl.DataFrame) -> None:
    rows = [
        (airline, f"{flights:,}", f"{mean:.1f} min", f"{worst:.0f} min")
        for airline, flights, mean, worst in carriers.iter_rows()
    ]
    table(("airline", "flights", "mean delay", "worst hourly p95"), rows, title="Busiest carriers from New York, 2013")


def _show(report: Report, differences: tuple[str, ...]) -> None:
    say(
        f"{report.records:,} flights in {report.seconds:.1f} s: {report.records_per_second:,.0f} records per second,"
        f" from topic to database, on the {report.log} log"
    )
    if report.workspace:
        say(f"the workspace is kept in {report.workspace}")
    for difference in differences:
        say(difference)
    if report.rows_equal:
        say(f"{report.rows:,} result rows checked against plain SQL over the source files: all equal")
    else:
        say(
            f"DIFFERENT: {report.rows:,} rows for {report.rows_expected:,} expected,"
            f" {report.rows_missing:,} missing, {report.rows_unexpected:,} unexpected"
        )
