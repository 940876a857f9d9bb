"""`headrace demo`: the flights of New York, end to end.

Owns the command's options; `headrace.cli.demo` does the work.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.options import JsonOption


def demo(
    kafka: Annotated[
        bool, typer.Option("--kafka", help="On a real Kafka broker, started and stopped by the demo.")
    ] = False,
    services: Annotated[
        bool, typer.Option("--services", help="Planes in PostgreSQL, flights over HTTP, as services would have them.")
    ] = False,
    rows: Annotated[int | None, typer.Option("--rows", min=1, help="Only the first so many flights.")] = None,
    batch_records_max: Annotated[
        int | None, typer.Option("--batch-records-max", min=1, help="Records in one batch; the answer is the same.")
    ] = None,
    keep: Annotated[Path | None, typer.Option("--keep", help="Keep the demo's workspace in this folder.")] = None,
    json: JsonOption = False,
) -> None:
    """Run 336,776 real flights through contracts, log, pipeline and connector, and check every row of the answer."""
    from headrace.cli.demo import run_demo

    raise typer.Exit(
        run_demo(
            kafka=kafka,
            services=services,
            rows=rows,
            batch_records_max=batch_records_max,
            keep=keep,
            json_output=json,
        )
    )
