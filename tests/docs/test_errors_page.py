"""docs/errors.md lists every stable error code of the code, and no other."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import headrace
from headrace.errors import HeadraceError

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "errors.md"
SOURCES = sorted([*(ROOT / "src" / "headrace").rglob("*.py"), *(ROOT / "connectors").glob("*/src/**/*.py")])

ROW = re.compile(r"^\| `([a-z]+\.[a-z0-9_]+)` \|(?: (row|retry|stop) \|)? (.+) \| (.+) \|$", re.MULTILINE)
CONNECTORS = sorted(path.name.removeprefix("headrace-") for path in (ROOT / "connectors").glob("headrace-*"))
WORDS = ["decode", "encode", "process", "deliver", "egress", "ingress", "workspace", "cdc", *CONNECTORS]
CODE = re.compile(rf"({'|'.join(WORDS)})\.[a-z0-9_]+")

ROOT_CODE = HeadraceError.code
"""Only its subclasses are raised."""

COMPOSED = {
    "src/headrace/contracts/binary/column_reader.py": {
        "decode.schema_resolution",
        "decode.invalid",
        "decode.out_of_range",
    },
    "src/headrace/contracts/binary/column_writer.py": {
        "encode.missing_column",
        "encode.null",
        "encode.out_of_range",
        "encode.type",
        "encode.union",
    },
    "src/headrace/engine/operators/aggregate_state.py": {"process.null_key", "process.time_before_epoch"},
    "src/headrace/engine/topic_reader.py": {"decode.null_event_time", "decode.absurd_event_time"},
}
"""Files that put a code together from parts, and what comes out."""


def listed() -> dict[str, tuple[str, str, str]]:
    """By code: its kind (empty for a dead letter's own), meaning, cure."""
    return {code: (kind, means, cure) for code, kind, means, cure in ROW.findall(PAGE.read_text(encoding="utf-8"))}


def classes(root: type[HeadraceError] = HeadraceError) -> Iterator[type[HeadraceError]]:
    for subclass in root.__subclasses__():
        yield subclass
        yield from classes(subclass)


def error_classes() -> dict[str, type[HeadraceError]]:
    """Every error class of headrace by code."""
    for module in pkgutil.walk_packages(headrace.__path__, "headrace."):
        if not module.name.endswith("__main__") and ".demo.flights" not in module.name:
            importlib.import_module(module.name)
    for connector in CONNECTORS:
        importlib.import_module(f"headrace_{connector}")
    own = ("headrace.", "headrace_")
    return {found.code: found for found in classes() if found.__module__.startswith(own)}


def written_codes() -> set[str]:
    """Codes of dead letters, refusals and problems: texts of the sources that look like one."""
    found = set()
    for path in SOURCES:
        if "testing" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and CODE.fullmatch(node.value):
                found.add(node.value)
    return found


def files_that_compose() -> set[str]:
    """Files with a text such as f"decode.{reason}"."""
    found = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            first = node.values[0] if isinstance(node, ast.JoinedStr) and node.values else None
            if isinstance(first, ast.Constant) and first.value in ("decode.", "encode.", "process.", "deliver."):
                found.add(str(path.relative_to(ROOT)))
    return found


def first_words_of(call: str, position: int, folder: Path) -> set[str]:
    """The text at `position` of each call of `call` in a folder."""
    found = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(call) and len(node.args) > position:
                argument = node.args[position]
                if isinstance(argument, ast.Constant):
                    found.add(argument.value)
    return found


def test_every_code_is_listed_and_no_other() -> None:
    """What can be raised, refused, planned as a problem or written on a dead letter stands on the page, once."""
    expected = (error_classes().keys() | written_codes() | set().union(*COMPOSED.values())) - {ROOT_CODE}
    assert set(listed()) == expected
    assert len(ROW.findall(PAGE.read_text(encoding="utf-8"))) == len(listed())


def test_kinds_are_those_of_the_code() -> None:
    """What the page says happens after an error is what its class says."""
    known = error_classes()
    wrong = {code: kind for code, (kind, _, _) in listed().items() if code in known and kind != known[code].fault.value}
    assert wrong == {}


def test_composed_codes_are_known() -> None:
    """No file beside the known ones composes codes, and the parts that these use give the codes that are known."""
    assert files_that_compose() == set(COMPOSED)
    binary = ROOT / "src" / "headrace" / "contracts" / "binary"
    reads = {f"decode.{each}" for each in first_words_of("BadValue", 0, binary)}
    assert reads == COMPOSED["src/headrace/contracts/binary/column_reader.py"]
    writes = {f"encode.{each}" for each in first_words_of("problems.add", 1, binary)}
    assert writes == COMPOSED["src/headrace/contracts/binary/column_writer.py"]


def test_classes_with_one_code_are_one_family() -> None:
    """A code has one meaning: classes that share it are parent and child."""
    error_classes()
    by_code: dict[str, list[type[HeadraceError]]] = {}
    for found in classes():
        if found.__module__.startswith("headrace."):
            by_code.setdefault(found.code, []).append(found)
    strangers = {
        code: [each.__name__ for each in found]
        for code, found in by_code.items()
        if any(not issubclass(each, found[0]) for each in found)
    }
    assert strangers == {}
