"""`headrace dlq`: dead letters, listed, shown and replayed.

Owns the commands and the shape of their answers.

- `replay` ends with exit code 1 when a dead letter was refused, or, with `--wait`, was not processed. One that was
  replayed before is left out and is no failure: the same call may be made again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.cli.options import EnvironmentOption, JsonOption, WorkspaceOption
from headrace.cli.output import EXIT_ERROR, emit_json, json_line, note, say, table, time_text

if TYPE_CHECKING:
    from headrace.workspace.dead_letters import Filters, Group
    from headrace.workspace.dlq_views import ShownLetter
    from headrace.workspace.replay import Decision, ReplayReport, Request

MESSAGE_WIDTH_MAX = 80
VALUE_WIDTH_MAX = 2_000
"""Characters of one line for people."""
REFUSALS_SHOWN_MAX = 20

app = typer.Typer(help="Dead letters: list, show, replay.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(help="Pipeline, ingress or egress; or a topic of dead letters.")]
StageOption = Annotated[
    list[str] | None, typer.Option("--stage", help="Only of this stage: decode, process, encode, deliver.")
]
StepOption = Annotated[list[str] | None, typer.Option("--step", help="Only of this step.")]
CodeOption = Annotated[list[str] | None, typer.Option("--code", help="Only with this error code.")]
SinceOption = Annotated[
    str | None, typer.Option("--since", help="Only those written then or later: 2026-01-31T12:00:00Z, 1706702400000ms.")
]
UntilOption = Annotated[str | None, typer.Option("--until", help="Only those written before.")]
OffsetOption = Annotated[
    list[int] | None, typer.Option("--offset", help="Only the one at this offset of the dead-letter topic.")
]


@app.command("list")
def list_letters(
    name: Annotated[
        str | None, typer.Argument(help="Pipeline, ingress, egress or topic; default: all of the workspace.")
    ] = None,
    json: JsonOption = False,
    workspace: WorkspaceOption = None,
    env: EnvironmentOption = None,
) -> None:
    """Count dead letters by stage, step and error code."""
    from headrace.workspace.dead_letters import owner, owners
    from headrace.workspace.dlq_views import groups
    from headrace.workspace.environment import connect
    from headrace.workspace.load import load

    loaded = load(workspace)
    with connect(loaded.file, loaded.contracts, env) as environment:
        chosen = owners(loaded) if name is None else [owner(loaded, environment.log, name)]
        found = groups(loaded, environment, chosen)
        answer = [_group_json(each) for each in found]
        if json:
            emit_json({"workspace": loaded.name, "environment": environment.name, "dead_letters": answer})
            return
    if not found:
        say("no dead letters")
        return
    columns = ("of", "stage", "step", "code", "count", "open", "first", "last", "message")
    table(columns, [_group_row(each) for each in answer])


def _group_json(group: Group) -> dict[str, Any]:
    from headrace.workspace.replay_outcomes import Outcome

    counts = {outcome.value: group.outcomes.get(outcome, 0) for outcome in Outcome}
    example = group.example
    return {
        "kind": group.owner.kind.value if group.owner.kind is not None else None,
        "name": group.owner.name,
        "topic": group.owner.topic,
        "stage": group.stage,
        "step": group.step,
        "code": group.code,
        "count": group.count,
        **counts,
        "replayed": group.count - counts[Outcome.OPEN.value],
        "first_at": time_text(group.first_ms),
        "first_at_ms": group.first_ms,
        "last_at": time_text(group.last_ms),
        "last_at_ms": group.last_ms,
        "example": None
        if example is None
        else {"partition": example.place.partition, "offset": example.place.offset, "message": example.message},
    }


def _group_row(group: dict[str, Any]) -> list[object]:
    message = group["example"]["message"]
    shown = message if len(message) <= MESSAGE_WIDTH_MAX else message[:MESSAGE_WIDTH_MAX] + "..."
    texts = [group[name] for name in ("name", "stage", "step", "code", "count", "open", "first_at", "last_at")]
    return [*texts, " ".join(shown.split())]


@app.command("show")
def show_letters(
    name: NameArgument,
    stage: StageOption = None,
    step: StepOption = None,
    code: CodeOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    offset: OffsetOption = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Show at most so many.")] = 20,
    json: JsonOption = False,
    workspace: WorkspaceOption = None,
    env: EnvironmentOption = None,
) -> None:
    """Show dead letters: where they came from, what was wrong, key and value by contract."""
    from headrace.workspace.dead_letters import owner
    from headrace.workspace.dlq_views import show
    from headrace.workspace.environment import connect
    from headrace.workspace.load import load

    filters = _filters(stage, step, code, since, until, offset)
    loaded = load(workspace)
    with connect(loaded.file, loaded.contracts, env) as environment:
        for shown in show(loaded, environment, owner(loaded, environment.log, name), filters, limit):
            if json:
                say(json_line(letter_json(shown)))
            else:
                _say_letter(letter_json(shown))


def _filters(
    stage: list[str] | None,
    step: list[str] | None,
    code: list[str] | None,
    since: str | None,
    until: str | None,
    offset: list[int] | None,
) -> Filters:
    from headrace.workspace.dead_letters import Filters

    return Filters(
        stages=frozenset(stage or ()),
        steps=frozenset(step or ()),
        codes=frozenset(code or ()),
        offsets=frozenset(offset or ()),
        since_ms=_time_ms("--since", since),
        until_ms=_time_ms("--until", until),
    )


def _time_ms(option: str, text: str | None) -> int | None:
    from headrace.workspace.reading import Start

    if text is None:
        return None
    time_ms = Start.parse(text).time_ms
    if time_ms is None:
        raise typer.BadParameter(f"{text!r} is no time", param_hint=option)
    return time_ms


def letter_json(shown: ShownLetter) -> dict[str, Any]:
    """The shape of a dead letter in JSON."""
    from headrace.workspace.json_values import as_json

    letter, source = shown.letter, shown.letter.source
    return {
        "topic": letter.place.topic,
        "partition": letter.place.partition,
        "offset": letter.place.offset,
        "time": time_text(letter.time_ms),
        "time_ms": letter.time_ms,
        "writer": letter.writer.value,
        "stage": letter.stage,
        "code": letter.code,
        "message": letter.message,
        "component": letter.component,
        "step": letter.step,
        "source": None
        if source is None
        else {
            "topic": source.topic,
            "partition": source.partition,
            "offset": letter.source_offset,
            "time": time_text(letter.source_time_ms),
            "time_ms": letter.source_time_ms,
        },
        "original": letter.is_original,
        "key": as_json(shown.key),
        "value": as_json(shown.value),
        "undecoded": None
        if shown.undecoded is None
        else {"code": shown.undecoded.code, "message": shown.undecoded.message},
        "row": as_json(shown.row),
        "headers": [[name, as_json(value)] for name, value in letter.headers],
        "replays": letter.replays,
        "outcome": shown.outcome.value,
        "not_replayable": None
        if shown.why_not is None
        else {"code": shown.why_not.code, "message": shown.why_not.message},
    }


def _say_letter(letter: dict[str, Any]) -> None:
    source = letter["source"]
    came = "no single record" if source is None else f"{source['topic']}[{source['partition']}]@{source['offset']}"
    say(f"{letter['topic']}[{letter['partition']}]@{letter['offset']}  {letter['time']}  {letter['outcome']}")
    say(f"  {letter['stage']} in {letter['step'] or letter['component']}, of {came}")
    say(f"  [{letter['code']}] {letter['message']}")
    for name in ("key", "value", "row"):
        if letter[name] is not None:
            text = json_line(letter[name])
            say(f"  {name:5} {text if len(text) <= VALUE_WIDTH_MAX else text[:VALUE_WIDTH_MAX] + '...'}")
    for header, value in letter["headers"]:
        say(f"  header {header}: {value}")
    if letter["not_replayable"] is not None:
        say(f"  cannot be replayed: {letter['not_replayable']['message']}")


@app.command("replay")
def replay_letters(
    name: Annotated[str, typer.Argument(help="Pipeline or egress whose step takes them again.")],
    stage: StageOption = None,
    step: StepOption = None,
    code: CodeOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    offset: OffsetOption = None,
    topic: Annotated[
        str | None,
        typer.Option("--topic", help="Take them from this topic, of Kafka Connect or Kafka Streams, instead."),
    ] = None,
    patch: Annotated[
        str | None, typer.Option("--patch", help="A JSON object of columns and values to replay them with.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="Replay at most so many.")] = 10_000,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be replayed.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also what was replayed before, fails each time, or is outdated.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until they are processed, or failed again.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds to wait at most.")] = 60.0,
    json: JsonOption = False,
    workspace: WorkspaceOption = None,
    env: EnvironmentOption = None,
) -> None:
    """Bring dead letters back to the step that failed, each once."""
    from headrace.workspace.dead_letters import owner
    from headrace.workspace.environment import connect
    from headrace.workspace.load import load
    from headrace.workspace.replay import Request, carry_out, plan_replay
    from headrace.workspace.replay import wait as wait_for

    filters, values = _filters(stage, step, code, since, until, offset), _patch(patch)
    loaded = load(workspace)
    with connect(loaded.file, loaded.contracts, env) as environment:
        taker = owner(loaded, environment.log, name)
        request = Request(taker, topic or taker.topic, filters, values, force=force, limit=limit)
        if dry_run:
            report = plan_replay(loaded, environment, request)
        else:
            report = carry_out(loaded, environment, request)
            if wait:
                report = wait_for(loaded, environment, request, report, timeout)
    answer = report_json(request, report, dry_run=dry_run)
    if json:
        emit_json(answer)
    else:
        _say_report(answer)
    failed = wait and answer["replayed"] != answer["processed"]
    if answer["refused"] or (failed and not dry_run):
        raise typer.Exit(EXIT_ERROR)


def _patch(text: str | None) -> dict[str, Any] | None:
    import json

    if text is None:
        return None
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise typer.BadParameter(f"no JSON: {error}", param_hint="--patch") from error
    if not isinstance(values, dict):
        raise typer.BadParameter("give a JSON object of columns and values", param_hint="--patch")
    return values


def report_json(request: Request, report: ReplayReport, *, dry_run: bool) -> dict[str, Any]:
    """The shape of a replay in JSON."""
    letters = [_decision_json(each, dry_run=dry_run) for each in report.decisions]
    results = [each["result"] for each in letters]
    return {
        "name": request.owner.name,
        "topic": request.topic,
        "dry_run": dry_run,
        "replayed": sum(bool(each.entrances) for each in report.decisions),
        "processed": results.count("processed"),
        "failed_again": results.count("failed_again"),
        "replayed_before": report.replayed_before,
        "refused": results.count("refused"),
        "letters": letters,
    }


def _decision_json(decision: Decision, *, dry_run: bool) -> dict[str, Any]:
    from headrace.workspace.replay import ReplayedBefore

    letter, refusal = decision.letter, decision.refusal
    if refusal is not None:
        result = "replayed_before" if isinstance(refusal, ReplayedBefore) else "refused"
    else:
        result = "would_replay" if dry_run else decision.outcome.value
    return {
        "partition": letter.place.partition,
        "offset": letter.place.offset,
        "stage": letter.stage,
        "step": decision.entrances[0].step if decision.entrances else letter.step,
        "tasks": [each.task for each in decision.entrances],
        "result": result,
        "error": None
        if refusal is None
        else {"code": refusal.code, "message": refusal.message, "cure": refusal.cure or ""},
    }


def _say_report(answer: dict[str, Any]) -> None:
    refused = [each for each in answer["letters"] if each["result"] == "refused"]
    for each in refused[:REFUSALS_SHOWN_MAX]:
        error = each["error"]
        cure = f"; {error['cure']}" if error["cure"] else ""
        note(f"refused: {each['partition']}:{each['offset']} [{error['code']}] {error['message']}{cure}")
    if len(refused) > REFUSALS_SHOWN_MAX:
        note(f"refused: {len(refused) - REFUSALS_SHOWN_MAX} more")
    verb = "would be replayed" if answer["dry_run"] else "replayed"
    parts = [f"{answer['replayed']} {verb}"]
    parts += [
        f"{answer[name]} {text}"
        for name, text in (
            ("processed", "processed"),
            ("failed_again", "failed again"),
            ("replayed_before", "replayed before"),
            ("refused", "refused"),
        )
        if answer[name]
    ]
    say(f"{answer['name']}: {', '.join(parts)}")
