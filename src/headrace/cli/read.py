"""`headrace read`: decoded records of a topic.

Owns the command and the shape of its lines.

- `--json` writes one object a line; a line never changes its shape within a major version.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.cli.options import EnvironmentOption, JsonOption, WorkspaceOption
from headrace.cli.output import json_line, say, time_text

if TYPE_CHECKING:
    from headrace.workspace.reading import ReadRecord

LINE_WIDTH_MAX = 400
"""Characters of a value on a line for people."""


def read(
    topic: Annotated[str, typer.Argument(help="Topic to read.")],
    json: JsonOption = False,
    limit: Annotated[int | None, typer.Option("--limit", "-n", min=1, help="Stop after so many records.")] = None,
    start: Annotated[
        str,
        typer.Option("--from", help="earliest, latest, an offset, or a time (2026-01-31T12:00:00Z, 1706702400000ms)."),
    ] = "earliest",
    from_beginning: Annotated[bool, typer.Option("--from-beginning", help="Same as --from earliest.")] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for new records until interrupted.")] = False,
    workspace: WorkspaceOption = None,
    env: EnvironmentOption = None,
) -> None:
    """Show records of a topic, decoded by its contract."""
    from headrace.workspace.environment import connect
    from headrace.workspace.load import load
    from headrace.workspace.reading import Decoder, Start, read_topic

    loaded = load(workspace)
    with connect(loaded.file, loaded.contracts, env) as environment:
        decoder = Decoder(loaded.topics.get(topic), environment.registry)
        begin = Start.parse("earliest" if from_beginning else start)
        for records in read_topic(environment.log, topic, decoder, start=begin, follow=follow, limit=limit):
            for record in records:
                say(json_line(record_json(record)) if json else _line(record))


def record_json(record: ReadRecord) -> dict[str, Any]:
    """The shape of a record in JSON."""
    from headrace.workspace.json_values import as_json

    error = record.error
    return {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": time_text(record.timestamp_ms),
        "timestamp_ms": record.timestamp_ms,
        "key": as_json(record.key),
        "value": as_json(record.value),
        "headers": [[name, as_json(value)] for name, value in record.headers],
        "error": {"code": error.code, "message": error.message} if error else None,
    }


def _line(record: ReadRecord) -> str:
    from headrace.workspace.json_values import as_json

    place = f"{record.partition}:{record.offset}  {time_text(record.timestamp_ms)}"
    if record.error is not None:
        return f"{place}  undecodable [{record.error.code}] {record.error.message}"
    key = json_line(as_json(record.key))
    value = "deleted" if record.value is None else json_line(as_json(record.value))
    shown = value if len(value) <= LINE_WIDTH_MAX else value[:LINE_WIDTH_MAX] + "..."
    return f"{place}  {key}  {shown}"
