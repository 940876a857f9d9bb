"""The house rules that a machine can hold: import arrows, docstrings, length of modules.

`ARROWS` is the table of the design: a room may import the rooms it names and, through them, all lower ones.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "headrace"
LINES_MAX = 500
USERS_FILES = SOURCE / "demo" / "flights"
"""The demo's workspace, copied as it is: its pipelines are written as a user writes them, with the public names of
`headrace`, and belong to no room."""

ARROWS: dict[str, tuple[str, ...]] = {
    "errors": (),
    "native": (),
    "contracts": ("errors", "native"),
    "log": ("contracts",),
    "flow": ("contracts",),
    "engine": ("flow", "log"),
    "ingress": ("log",),
    "egress": ("log",),
    "policy": ("flow",),
    "catalog": ("flow",),
    "workspace": ("engine", "ingress", "egress", "policy", "catalog"),
    "testing": ("workspace",),
    "demo": ("testing",),
    "console": ("testing",),
    "cli": ("console", "demo"),
}
CONNECTOR_MAY_IMPORT = ("contracts", "egress", "errors", "ingress", "testing")
"""Connectors see the contracts that `egress.sdk` hands them, and the public names of `headrace` itself never."""


def reachable(room: str) -> frozenset[str]:
    """The room itself and all rooms below it."""
    return frozenset({room}.union(*(reachable(lower) for lower in ARROWS[room])))


def imports(tree: ast.Module, package: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """Line and full name of everything a module imports, wherever the import stands. `package` is the module's own."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join((*above, *([node.module] if node.module else [])))
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def wrong_arrows(path: Path, root: Path) -> list[str]:
    """Imports of a module of headrace that its room may not have. `root` is the folder of the package."""
    parts = path.relative_to(root).with_suffix("").parts
    room = parts[0]
    if room == "__init__":
        return []  # The façade: it gives the public names of the rooms, and no room may import it.
    if room not in ARROWS:
        return [f"{path}: {room!r} is not a room"]
    allowed = reachable(room)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    wrong = []
    for line, name in imports(tree, ("headrace", *parts[:-1])):
        target = name.split(".")
        if target[0] == "headrace" and (len(target) < 2 or target[1] not in allowed):
            wrong.append(f"{path}:{line}: {room} imports {name}")
    return wrong


def wrong_connector_imports(path: Path) -> list[str]:
    """Imports of a connector's module that only headrace itself may have."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    wrong = []
    for line, name in imports(tree, ()):
        target = name.split(".")
        if target[0] == "headrace" and (len(target) < 2 or target[1] not in CONNECTOR_MAY_IMPORT):
            wrong.append(f"{path}:{line}: a connector imports {name}")
    return wrong


def wrong_looks(path: Path) -> list[str]:
    """Breaches of the look of a module."""
    text = path.read_text(encoding="utf-8")
    lines = text.count("\n")
    wrong = []
    if lines > LINES_MAX:
        wrong.append(f"{path}: {lines} lines, more than {LINES_MAX}")
    if path.name == "utils.py":
        wrong.append(f"{path}: a file is a domain noun")
    empty_package = path.name == "__init__.py" and not text.strip()
    if not empty_package and not ast.get_docstring(ast.parse(text)):
        wrong.append(f"{path}: no docstring")
    return wrong


def modules() -> list[Path]:
    return sorted(path for path in SOURCE.rglob("*.py") if not path.is_relative_to(USERS_FILES))


def connector_modules() -> list[Path]:
    return sorted((ROOT / "connectors").glob("*/src/**/*.py"))


def test_arrows_point_down() -> None:
    """No room imports a room that is not below it, inside functions and type-checking blocks included."""
    assert [line for path in modules() for line in wrong_arrows(path, SOURCE)] == []


def test_connectors_import_their_interface_only() -> None:
    """A connector depends on the egress and ingress interface, never on an engine or a log."""
    assert [line for path in connector_modules() for line in wrong_connector_imports(path)] == []


def test_modules_look_as_agreed() -> None:
    """Every module says what it owns, none is longer than agreed, none is called utils."""
    assert [line for path in [*modules(), *connector_modules()] for line in wrong_looks(path)] == []


def test_every_test_says_what_it_proves() -> None:
    """Each test function has a docstring."""
    silent = []
    for path in [*sorted((ROOT / "tests").rglob("test_*.py")), *sorted((ROOT / "connectors").rglob("test_*.py"))]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_test = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
            if is_test and not ast.get_docstring(node):
                silent.append(f"{path}:{node.lineno}: {node.name}")
    assert silent == []


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("flow/planted.py", "import headrace.log.port"),
        ("flow/planted.py", "from headrace import engine"),
        ("flow/planted.py", "from headrace.log import port"),
        ("flow/planted.py", "from .. import log"),
        ("flow/planted.py", "from ..log import port"),
        ("flow/deep/planted.py", "from ...log import port"),
        ("contracts/planted.py", "def f() -> None:\n    from headrace.log import port"),
        ("engine/planted.py", "if 1:\n    import headrace.ingress.publisher"),
        ("ingress/planted.py", "import headrace"),
        ("workspace/planted.py", "from headrace.cli import main"),
        ("errors.py", "from headrace.contracts import contract"),
        ("attic/planted.py", "x = 1"),
    ],
)
def test_a_planted_wrong_arrow_is_found(tmp_path: Path, module: str, text: str) -> None:
    """The check sees each way of writing a forbidden import."""
    path = tmp_path / module
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    assert len(wrong_arrows(path, tmp_path)) == 1


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("engine/fine.py", "from headrace.flow.plan import Plan\nfrom headrace.log import port\nimport polars"),
        ("engine/fine.py", "from headrace.errors import HeadraceError\nfrom . import operator"),
        ("cli/fine.py", "from headrace.workspace.load import load"),
        ("__init__.py", "from headrace.flow import stream"),
    ],
)
def test_right_arrows_pass(tmp_path: Path, module: str, text: str) -> None:
    """The check lets downward imports through."""
    path = tmp_path / module
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    assert wrong_arrows(path, tmp_path) == []


def test_planted_breaches_of_the_look_are_found(tmp_path: Path) -> None:
    """Length, name and missing docstring are each found; an empty package file is fine."""
    long = tmp_path / "utils.py"
    long.write_text("x = 1\n" * (LINES_MAX + 1))
    assert len(wrong_looks(long)) == 3
    empty = tmp_path / "__init__.py"
    empty.write_text("\n")
    assert wrong_looks(empty) == []
    connector = tmp_path / "connector.py"
    connector.write_text("from headrace.engine import worker\nfrom headrace.egress import sdk\n")
    assert len(wrong_connector_imports(connector)) == 1
