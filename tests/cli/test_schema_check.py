"""`headrace schema check`: exit codes and words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from headrace.cli.schema import app

from .conftest import Call

OLD = {"type": "record", "name": "R", "fields": [{"name": "a", "type": "int"}]}
WIDER = {"type": "record", "name": "R", "fields": [{"name": "a", "type": "long"}]}
ADDED = {"type": "record", "name": "R", "fields": [{"name": "a", "type": "int"}, {"name": "b", "type": "int"}]}
WITH_DEFAULT = {
    "type": "record",
    "name": "R",
    "fields": [{"name": "a", "type": "int"}, {"name": "b", "type": "int", "default": 0}],
}


def run(folder: Path, new: Any, *old: Any, mode: str | None = None, options: tuple[str, ...] = ()) -> Result:
    """Write the schemas to `new.avsc`, `old0.avsc`, ... and check; a text is written as it is."""
    arguments = ["check", str(folder / "new.avsc")]
    for name, schema in [("new", new), *((f"old{index}", each) for index, each in enumerate(old))]:
        (folder / f"{name}.avsc").write_text(schema if isinstance(schema, str) else json.dumps(schema))
    for index in range(len(old)):
        arguments += ["--against", str(folder / f"old{index}.avsc")]
    return CliRunner().invoke(app, [*arguments, *([] if mode is None else ["--mode", mode]), *options])


@pytest.mark.parametrize(
    ("new", "old", "mode", "code"),
    [
        (WIDER, OLD, "backward", 0),
        (OLD, WIDER, "backward", 1),
        (OLD, WIDER, "forward", 0),
        (WIDER, OLD, "forward", 1),
        (WIDER, OLD, "full", 1),
        (WITH_DEFAULT, OLD, "full", 0),
        (OLD, WIDER, "none", 0),
        (ADDED, OLD, None, 1),
        (ADDED, OLD, "BACKWARD", 1),
        ('"long"', '"int"', "backward", 0),
        ('"int"', '"string"', "backward", 1),
        ('["null","string"]', '"string"', "backward", 0),
    ],
)
def test_verdicts(tmp_path: Path, new: Any, old: Any, mode: str | None, code: int) -> None:
    """0 when compatible, 1 when not, for any kind of Avro schema; backward by default."""
    assert run(tmp_path, new, old, mode=mode).exit_code == code


def test_each_reason_is_a_line(tmp_path: Path) -> None:
    """With the file, the field and the words."""
    result = run(tmp_path, ADDED, OLD)
    reason, verdict = result.stdout.splitlines()
    assert reason.startswith(f"{tmp_path}/old0.avsc, field b: the new schema needs it")
    assert verdict == "not compatible (backward): 1 reason"


@pytest.mark.parametrize(("mode", "code"), [("backward", 0), ("backward_transitive", 1), ("full_transitive", 1)])
def test_the_newest_old_schema_comes_first(tmp_path: Path, mode: str, code: int) -> None:
    """Only the transitive modes look at the second one."""
    result = run(tmp_path, ADDED, WITH_DEFAULT, OLD, mode=mode)
    assert result.exit_code == code
    assert ("old1.avsc" in result.stdout) == bool(code)


def test_json(tmp_path: Path) -> None:
    """One object with verdict, reasons and warnings."""
    millis, micros = ({"type": "long", "logicalType": f"timestamp-{unit}"} for unit in ("millis", "micros"))
    new = {"type": "record", "name": "R", "fields": [{"name": "at", "type": micros}, {"name": "b", "type": "int"}]}
    old = {"type": "record", "name": "R", "fields": [{"name": "at", "type": millis}]}
    result = run(tmp_path, new, old, options=("--json",))
    assert result.exit_code == 1
    answer = json.loads(result.stdout)
    assert (answer["compatible"], answer["mode"]) == (False, "backward")
    (reason,) = answer["incompatibilities"]
    assert (reason["code"], reason["path"]) == ("reader_field_missing_default_value", "b")
    assert (reason["against"], reason["direction"]) == (str(tmp_path / "old0.avsc"), "backward")
    assert [(each["code"], each["path"]) for each in answer["warnings"]] == [("logical_type_changed", "at")]
    compatible = json.loads(run(tmp_path, OLD, OLD, options=("--json",)).stdout)
    assert compatible == {"compatible": True, "mode": "backward", "incompatibilities": [], "warnings": []}


def test_a_warning_does_not_change_the_verdict(tmp_path: Path) -> None:
    """It is a line of its own."""
    result = run(
        tmp_path, '{"type":"long","logicalType":"timestamp-micros"}', '{"type":"long","logicalType":"timestamp-millis"}'
    )
    assert result.exit_code == 0
    assert result.stdout.startswith("warning: ")
    assert result.stdout.endswith("compatible (backward)\n")


@pytest.mark.parametrize(
    ("new", "old", "mode", "words"),
    [
        ("{", OLD, "backward", "not JSON"),
        (OLD, '{"type": "nonsense"}', "backward", "nonsense"),
        ("", OLD, "backward", "not JSON"),
        ("int", '"int"', "backward", "without quotes"),
        ("null", '"int"', "backward", "without quotes"),
        ("[" * 100_000, OLD, "backward", "nested deeper"),
        ({"type": "record", "name": "R"}, OLD, "backward", "fields"),
        (OLD, OLD, "", "unknown mode"),
        (OLD, OLD, "sideways", "unknown mode"),
        (OLD, OLD, "bakward", "did you mean backward?"),
    ],
)
def test_wrong_input(tmp_path: Path, new: Any, old: Any, mode: str, words: str) -> None:
    """Exit code 2, one line on standard error, nothing on standard output, no traceback."""
    result = run(tmp_path, new, old, mode=mode)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert words in result.stderr
    assert "Traceback" not in result.output


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing file, a folder, and bytes that are no text."""
    (tmp_path / "old.avsc").write_text(json.dumps(OLD))
    (tmp_path / "bytes.avsc").write_bytes(b"\xff\xfe\xff")
    for new in ("none.avsc", ".", "bytes.avsc"):
        result = CliRunner().invoke(app, ["check", str(tmp_path / new), "--against", str(tmp_path / "old.avsc")])
        assert (result.exit_code, result.stdout) == (2, "")


def test_wrong_usage() -> None:
    """Without `--against` there is no question."""
    assert CliRunner().invoke(app, ["check", "new.avsc"]).exit_code == 2


CHAIN = (ADDED, WITH_DEFAULT, OLD)
"""The newest first: each follows the one before it; the first does not follow the last."""


@pytest.mark.parametrize(
    ("schemas", "codes"),
    [
        (CHAIN, {"none": 0, "backward": 0, "backward_transitive": 1, "forward": 0, "forward_transitive": 0}),
        (CHAIN, {"full": 0, "full_transitive": 1}),
        (CHAIN[::-1], {"backward": 0, "backward_transitive": 0, "forward": 0, "forward_transitive": 1}),
        (CHAIN[::-1], {"full": 0, "full_transitive": 1}),
        ((OLD, WIDER), {"none": 0, "backward": 1, "forward": 0, "full": 1}),
    ],
)
def test_all_modes_through_the_whole_command_line(
    call: Call, tmp_path: Path, schemas: tuple[Any, ...], codes: dict[str, int]
) -> None:
    """Exit codes of `headrace schema check` itself; where it refuses, standard output tells why."""
    files = [tmp_path / f"{index}.avsc" for index in range(len(schemas))]
    for file, schema in zip(files, schemas, strict=True):
        file.write_text(json.dumps(schema))
    older = [word for file in files[1:] for word in ("--against", str(file))]
    for mode, code in codes.items():
        answer = call("schema", "check", str(files[0]), *older, "--mode", mode)
        assert (mode, answer.code, answer.err) == (mode, code, "")
        assert ("field " in answer.out) == bool(code)
    wrong = call("schema", "check", str(files[0]), "--against", str(tmp_path / "none.avsc"))
    assert (wrong.code, wrong.out) == (2, "")
    assert "none.avsc" in wrong.err
