"""`headrace schema`: what may be asked about schemas.

Owns the command `check`.

- Exit code 0: compatible. 1: not, with a reason a line. 2: the question itself is wrong.
- Reasons and verdict go to standard output, wrong input to standard error.
- `check` needs no workspace, no registry and no log.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from headrace.cli.options import JsonOption
from headrace.cli.output import emit_json, print_error, say
from headrace.contracts.avro import PRIMITIVES, AvroSchema
from headrace.contracts.compatibility import DIRECTIONS, TRANSITIVE, Incompatibility, check
from headrace.contracts.compatibility_warnings import warnings
from headrace.contracts.registry import CompatibilityMode
from headrace.contracts.yaml_source import closest
from headrace.errors import HeadraceError, Where

EXIT_COMPATIBLE = 0
EXIT_INCOMPATIBLE = 1
EXIT_WRONG_INPUT = 2

app = typer.Typer(name="schema", help="Look at schemas and check their evolution.", no_args_is_help=True)


class SchemaUnreadable(HeadraceError):
    """A file given to the command cannot be read."""

    code = "cli.schema_unreadable"


class ModeUnknown(HeadraceError):
    """`--mode` is not a compatibility mode."""

    code = "cli.mode_unknown"


@app.callback()
def schema() -> None:
    """Look at schemas and check their evolution."""


@app.command("check")
def check_command(
    new: Annotated[Path, typer.Argument(metavar="NEW.avsc", help="The schema that is to come.")],
    against: Annotated[
        list[Path],
        typer.Option(
            "--against",
            metavar="OLD.avsc",
            help="A schema that is there, the newest first. Modes that are not transitive look at the first only.",
        ),
    ],
    mode: Annotated[
        str,
        typer.Option("--mode", metavar="MODE", help=f"{', '.join(each.value for each in CompatibilityMode)}."),
    ] = CompatibilityMode.BACKWARD.value,
    as_json: JsonOption = False,
) -> None:
    """Tell whether a new schema may follow older ones: exit 0 when it may, 1 when not, 2 for wrong input."""
    try:
        chosen = parse_mode(mode)
        new_schema = read_schema(new)
        old_schemas = [read_schema(path) for path in against]
    except HeadraceError as error:
        print_error(error)
        raise typer.Exit(EXIT_WRONG_INPUT) from None
    # The options name the newest first, `check` takes the oldest first.
    oldest_first = list(zip(reversed(against), reversed(old_schemas), strict=True))
    found = check(new_schema, [each for _, each in oldest_first], chosen)
    files = [str(path) for path, _ in oldest_first]
    report = _report(chosen, found, files, _warned(new_schema, oldest_first, chosen))
    if as_json:
        emit_json(report)
    else:
        say(_text(report, found, files))
    raise typer.Exit(EXIT_INCOMPATIBLE if found else EXIT_COMPATIBLE)


def read_schema(path: Path) -> AvroSchema:
    """The schema in a file. Raises `SchemaUnreadable` or `SchemaInvalid`."""
    where = Where(str(path))
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SchemaUnreadable(f"cannot be read: {error.strerror}", where=where) from None
    except UnicodeDecodeError:
        raise SchemaUnreadable("is not UTF-8 text", where=where) from None
    if text.strip() in PRIMITIVES:
        # `AvroSchema` takes a bare name, as people write it in code; a file holds JSON.
        raise SchemaUnreadable(f"not JSON: {text.strip()} stands without quotes", where=where, cure="add the quotes")
    return AvroSchema.parse(text, where=where)


def parse_mode(text: str) -> CompatibilityMode:
    """The mode of a text such as `backward_transitive`, in any case. Raises `ModeUnknown`."""
    names = [each.value for each in CompatibilityMode]
    name = text.lower().replace("-", "_")
    if name not in names:
        guess = closest(name, names)
        cure = f"did you mean {guess}?" if guess else f"use one of {', '.join(names)}"
        raise ModeUnknown(f"unknown mode {text!r}", cure=cure)
    return CompatibilityMode(name)


def _warned(
    new: AvroSchema, oldest_first: list[tuple[Path, AvroSchema]], mode: CompatibilityMode
) -> list[dict[str, str]]:
    """Silent changes of meaning against the schemas that the mode looks at, newest first."""
    looked_at = oldest_first if mode in TRANSITIVE else oldest_first[-1:] if DIRECTIONS[mode] else []
    return [
        {"code": each.code, "path": each.path, "against": str(path), "message": each.message}
        for path, old in reversed(looked_at)
        for each in warnings(new, old)
    ]


def _report(
    mode: CompatibilityMode, found: tuple[Incompatibility, ...], files: list[str], warned: list[dict[str, str]]
) -> dict[str, Any]:
    reasons = [
        {
            "code": each.code,
            "path": each.path,
            "against": files[each.against],
            "direction": each.direction.value,
            "message": each.message,
        }
        for each in found
    ]
    return {"compatible": not found, "mode": mode.value, "incompatibilities": reasons, "warnings": warned}


def _text(report: dict[str, Any], found: tuple[Incompatibility, ...], files: list[str]) -> str:
    lines = [each.sentence(files[each.against]) for each in found]
    lines += [_warning_line(each) for each in report["warnings"]]
    if report["compatible"]:
        lines.append(f"compatible ({report['mode']})")
    else:
        lines.append(f"not compatible ({report['mode']}): {len(found)} reason{'s' if len(found) > 1 else ''}")
    return "\n".join(lines)


def _warning_line(warned: dict[str, str]) -> str:
    place = f"field {warned['path']}" if warned["path"] else "whole schema"
    return f"warning: {warned['against']}, {place}: {warned['message']}"
