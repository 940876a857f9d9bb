"""`headrace publish`: records from a file, an argument or standard input into a topic.

Owns the command and its report.

- Records are checked against the topic's contract first: with one bad record nothing is published, unless `--skip-bad`.
- Exit code 1 when any record was refused.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.cli.options import EnvironmentOption, JsonOption, WorkspaceOption
from headrace.cli.output import EXIT_ERROR, emit_json, note, say

if TYPE_CHECKING:
    from headrace.ingress.files import FileProgress, FileReport

REFUSALS_SHOWN_MAX = 20


def publish(
    topic: Annotated[str, typer.Argument(help="Topic to publish to; it needs a contract.")],
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help=".jsonl, .csv or .parquet.", exists=True, dir_okay=False)
    ] = None,
    value: Annotated[str | None, typer.Option("--value", help="One record as a JSON object.")] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Publish the good records of a file with bad ones.")
    ] = False,
    json: JsonOption = False,
    workspace: WorkspaceOption = None,
    env: EnvironmentOption = None,
) -> None:
    """Publish records; without --file and --value, JSON objects from standard input, one a line."""
    if file is not None and value is not None:
        raise typer.BadParameter("give --file or --value, not both")
    from headrace.ingress.batch_publisher import BatchPublisher
    from headrace.ingress.files import BadRows, publish_file
    from headrace.workspace.environment import open_environment

    with (
        _rows_file(file, value) as path,
        open_environment(workspace, env) as environment,
        BatchPublisher(environment, name="headrace-publish") as publisher,
        _progress(shown=file is not None and sys.stderr.isatty()) as progress,
    ):
        try:
            report = publish_file(publisher, topic, path, skip_bad=skip_bad, progress=progress)
        except BadRows as error:
            report = error.report
            _show(report, json=json, cure=str(error.cure))
            raise typer.Exit(EXIT_ERROR) from error
    _show(report, json=json)
    if report.bad:
        raise typer.Exit(EXIT_ERROR)


@contextmanager
def _rows_file(file: Path | None, value: str | None) -> Iterator[Path]:
    """The file to publish; what comes by argument or standard input is put into one."""
    if file is not None:
        yield file
        return
    with tempfile.TemporaryDirectory(prefix="headrace-") as folder:
        path = Path(folder) / ("value.jsonl" if value is not None else "stdin.jsonl")
        with path.open("w", encoding="utf-8") as rows:
            if value is not None:
                rows.write(" ".join(value.splitlines()) + "\n")
            else:
                shutil.copyfileobj(sys.stdin, rows)
        yield path


@contextmanager
def _progress(*, shown: bool) -> Iterator[Any]:
    """A progress bar on a terminal, nothing elsewhere."""
    if not shown:
        yield None
        return
    from rich.progress import Progress

    from headrace.cli.output import console

    with Progress(console=console(stderr=True), transient=True) as bars:
        tasks = {phase: bars.add_task(phase, total=None) for phase in ("check", "publish")}

        def advance(progress: FileProgress) -> None:
            bars.update(tasks[progress.phase], completed=progress.bytes_done, total=progress.bytes_total)

        yield advance


def _show(report: FileReport, *, json: bool, cure: str = "") -> None:
    if json:
        emit_json(report_json(report))
        return
    for row in report.bad_rows[:REFUSALS_SHOWN_MAX]:
        note(f"refused: {row}")
    if report.bad > REFUSALS_SHOWN_MAX:
        note(f"refused: {report.bad - REFUSALS_SHOWN_MAX} more")
    if report.bad and cure:
        note(cure)
    say(f"{report.topic}: {report.published} published, {report.bad} refused")


def report_json(report: FileReport) -> dict[str, object]:
    """The shape of a report in JSON."""
    return {
        "topic": report.topic,
        "published": report.published,
        "refused": report.bad,
        "refusals": [
            {"file": row.where.file, "line": row.where.line, "field": row.field or None, "reason": row.reason}
            for row in report.bad_rows
        ],
    }
