"""`headrace status`: how every pipeline, ingress and egress is.

Owns the command and the shape of its rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headrace.cli.options import EnvironmentOption, JsonOption, WorkspaceOption
from headrace.cli.output import emit_json, note, table, time_text
from headrace.cli.restore_text import restore_text

if TYPE_CHECKING:
    from headrace.workspace.overview import ComponentRow

COLUMNS = (
    "name",
    "kind",
    "state",
    "instances",
    "lag records",
    "lag s",
    "records/s",
    "records in",
    "dead letters",
    "dropped",
    "stream time",
)


def status(json: JsonOption = False, workspace: WorkspaceOption = None, env: EnvironmentOption = None) -> None:
    """Show lag, throughput, stream time and dead letters of all that runs."""
    from headrace.workspace.environment import connect
    from headrace.workspace.load import load
    from headrace.workspace.overview import component_rows

    loaded = load(workspace)
    with connect(loaded.file, loaded.contracts, env) as environment:
        rows = component_rows(loaded, environment)
        name = environment.name
    if json:
        emit_json({"workspace": loaded.name, "environment": name, "components": [component_json(row) for row in rows]})
        return
    if not rows:
        note(f"workspace {loaded.name!r} has no pipeline, ingress or egress")
    table(COLUMNS, [_cells(row) for row in rows])
    for row in rows:
        if row.desired.reason and row.desired.state.value != "running":
            note(
                f"{row.name}: {row.desired.state.value} since {time_text(row.desired.since_ms)} ({row.desired.reason})"
            )
        if text := restore_text(row.statuses):
            note(f"{row.name}: {text}")
        for text in source_texts(row):
            note(f"{row.name}: {text}")
        if row.error:
            note(f"{row.name}: {row.error}")


def source_texts(row: ComponentRow) -> list[str]:
    """What the database of an ingress keeps for it, and which tables it reads just now."""
    found = []
    for each in row.statuses:
        if each.source_log is not None:
            log = each.source_log
            seconds = "" if log.behind_seconds is None else f", {log.behind_seconds:.1f} s"
            limit = "" if log.safe_bytes is None else f", {_megabytes(log.safe_bytes)} until it is given up"
            kept = _megabytes(log.kept_bytes)
            found.append(f"{_megabytes(log.behind_bytes)}{seconds} behind its database, which keeps {kept}{limit}")
        found += [f"reads table {table}: {rows:,} rows so far" for table, rows in each.snapshots.items()]
    return found


def _megabytes(size: int) -> str:
    return f"{size / 1_000_000:,.1f} MB"


def component_json(row: ComponentRow) -> dict[str, Any]:
    """The shape of a component in JSON."""
    return {
        "kind": row.kind,
        "name": row.name,
        "state": row.state,
        "desired": row.desired.state.value,
        "desired_since": time_text(row.desired.since_ms) or None,
        "instances": row.instances,
        "lag_records": row.lag.records if row.lag else None,
        "lag_seconds": round(row.lag.seconds, 3) if row.lag else None,
        "records_in": row.records_in,
        "records_out": row.records_out,
        "records_per_second": round(row.records_per_second, 1),
        "dead_letters": row.dead_letters,
        "dropped": dict(row.dropped),
        "stream_time": time_text(row.stream_time_ms) or None,
        "stream_time_ms": row.stream_time_ms,
        "watermark_delay_seconds": None if row.watermark_delay_s is None else round(row.watermark_delay_s, 3),
        "error": row.error,
        "workers": [
            {
                "instance": each.instance,
                "pid": each.pid,
                "state": each.state.value,
                "tasks": list(each.tasks),
                "started_at": time_text(each.started_at_ms),
                "written_at": time_text(each.written_at_ms),
                "records_in": each.records_in,
                "records_per_second": round(each.records_per_second, 1),
                "restore_records_done": each.restore_records_done,
                "restore_records": each.restore_records,
                "keys": each.keys,
                "state_bytes": each.state_bytes,
                "source_log": None if each.source_log is None else each.source_log.model_dump(),
                "snapshots": dict(each.snapshots),
            }
            for each in row.statuses
        ],
    }


def _state(row: ComponentRow) -> str:
    wanted = row.desired.state.value
    return row.state if wanted in ("running", row.state) else f"{row.state} (to be {wanted})"


def _cells(row: ComponentRow) -> tuple[object, ...]:
    return (
        row.name,
        row.kind,
        _state(row),
        row.instances,
        row.lag.records if row.lag else "",
        round(row.lag.seconds, 1) if row.lag else "",
        round(row.records_per_second, 1),
        row.records_in,
        row.dead_letters,
        sum(row.dropped.values()),
        time_text(row.stream_time_ms),
    )
