"""Polars expressions as JSON trees.

Owns reading, walking and expanding the JSON form in which a plan holds expressions.

- A tree holds no Python function.
- After `expand`, every tree makes exactly one column and names its columns one by one: no selector is left.
- What a tree makes is always what Polars makes of the user's expression; where that cannot be shown, it is refused.

Polars' own `meta.root_names()` is empty for selectors and `meta.is_row_separable()` panics on them, so trees are
expanded before anything is asked about them.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

from headrace.flow.errors import PipelineInvalid, PythonInExpression, TypeClash
from headrace.flow.values import Place

Tree = Any
"""A node of Polars' JSON: `{"Kind": content}`, or a bare text for a kind without content."""

BYTES_MIN = 16
"""A longer list of numbers in a tree, outside a literal, is a pickled function."""

_WIDE_FUNCTIONS = frozenset(
    {
        "AllHorizontal",
        "AnyHorizontal",
        "AsStruct",
        "Coalesce",
        "Concat",
        "ConcatHorizontal",
        "Format",
        "MaxHorizontal",
        "MeanHorizontal",
        "MinHorizontal",
        "SumHorizontal",
    }
)
"""Functions that take all columns of a selector at once, instead of being applied to each."""


def read_tree(expression: pl.Expr, place: Place) -> Tree:
    """The JSON tree of an expression; refuses Python functions, which it cannot hold."""
    try:
        tree = json.loads(expression.meta.serialize(format="json"))
    except pl.exceptions.PolarsError as error:
        if "python" not in str(error):
            raise PipelineInvalid(f"expression cannot be kept in a plan: {first_line(error)}", place=place) from error
        raise _python_refused(place) from error
    # With cloudpickle installed, Polars writes the function's bytes into the tree.
    if any(_holds_python(node) for node in walk(tree)):
        raise _python_refused(place)
    return tree


def _python_refused(place: Place) -> PythonInExpression:
    return PythonInExpression(
        "an expression here calls a Python function, which a plan cannot hold",
        place=place,
        cure="use the step .map_batches(function, schema=...) or .map(function, schema=...)",
    )


def _holds_python(node: Tree) -> bool:
    is_bytes = isinstance(node, list) and len(node) > BYTES_MIN and all(isinstance(each, int) for each in node)
    return is_bytes or (isinstance(node, dict) and "AnonymousFunction" in node)


def to_expression(tree: Tree) -> pl.Expr:
    """The expression of a tree."""
    return pl.Expr.deserialize(io.StringIO(json.dumps(tree)), format="json")


def walk(tree: Tree) -> Iterator[Tree]:
    """The node and everything inside it, top down; not what is inside a literal, which is data."""
    yield tree
    if isinstance(tree, dict):
        for kind, content in tree.items():
            if kind != "Literal":
                yield from walk(content)
    elif isinstance(tree, list):
        for content in tree:
            yield from walk(content)


def root_columns(tree: Tree) -> tuple[str, ...]:
    """Columns that the tree reads, in order of appearance, each once."""
    found = [node["Column"] for node in walk(tree) if _is_column(node)]
    return tuple(dict.fromkeys(found))


def _is_column(node: Tree) -> bool:
    return isinstance(node, dict) and isinstance(node.get("Column"), str)


def copied_column(tree: Tree) -> str | None:
    """The column that the tree passes on unchanged, under whatever name; None when it computes."""
    while isinstance(tree, dict) and len(tree) == 1:
        ((kind, content),) = tree.items()
        if kind == "Column":
            return str(content)
        if kind == "Alias":
            tree = content[0]
        elif kind == "KeepName":
            tree = content
        elif kind == "RenameAlias":
            tree = content["expr"]
        else:
            return None
    return None


def expand(tree: Tree, schema: Mapping[str, pl.DataType], place: Place) -> list[Tree]:
    """One tree for each column that the expression makes."""
    if not any(_is_plural(node) for node in walk(tree)):
        return [tree]
    frame = pl.LazyFrame(schema=dict(schema))
    wanted = _names(frame, [tree], place)
    trees = _expanded(tree, frame, place)
    if _names(frame, trees, place) != wanted:
        raise PipelineInvalid(
            "a selector stands here where headrace cannot tell its columns", place=place, cure="name the columns"
        )
    return trees


def _is_plural(node: Tree) -> bool:
    return isinstance(node, dict) and ("Selector" in node or _is_field_selection(node))


def _is_field_selection(node: Tree) -> bool:
    if not (isinstance(node, dict) and "Function" in node):
        return False
    function = node["Function"]["function"]
    return isinstance(function, dict) and "SelectFields" in _content(function.get("StructExpr"))


def _content(node: Tree) -> Mapping[str, Any]:
    return node if isinstance(node, dict) else {}


def _expanded(tree: Tree, frame: pl.LazyFrame, place: Place) -> list[Tree]:
    if isinstance(tree, list):
        return _combined([_expanded(each, frame, place) for each in tree], place)
    if not isinstance(tree, dict) or "Literal" in tree:
        return [tree]
    if "Selector" in tree:
        return [{"Column": name} for name in _names(frame, [tree], place)]
    if _is_field_selection(tree):
        (struct,) = tree["Function"]["input"]
        return [field for each in _expanded(struct, frame, place) for field in _fields(each, tree, frame, place)]
    if "Function" in tree and function_name(tree) in _WIDE_FUNCTIONS:
        inputs = [wide for each in tree["Function"]["input"] for wide in _expanded(each, frame, place)]
        return [{"Function": {**tree["Function"], "input": inputs}}]
    contents = _combined([_expanded(each, frame, place) for each in tree.values()], place)
    return [dict(zip(tree, each, strict=True)) for each in contents]


def _fields(struct: Tree, tree: Tree, frame: pl.LazyFrame, place: Place) -> list[Tree]:
    selection = {"Function": {**tree["Function"], "input": [struct]}}
    return [
        {"Function": {"input": [struct], "function": {"StructExpr": {"FieldByName": name}}}}
        for name in _names(frame, [selection], place)
    ]


def _combined(parts: list[list[Tree]], place: Place) -> list[list[Tree]]:
    """Several parts side by side: equally many of each, single ones repeated."""
    count = max((len(part) for part in parts if len(part) != 1), default=1)
    if any(len(part) not in (1, count) for part in parts):
        raise TypeClash("two selectors here stand for different numbers of columns", place=place)
    return [[part[0] if len(part) == 1 else part[index] for part in parts] for index in range(count)]


def function_name(tree: Tree) -> str:
    """The innermost name of a function node: `IsIn` of `{"Boolean": {"IsIn": ...}}`."""
    function: Any = tree["Function"]["function"]
    while isinstance(function, dict) and len(function) == 1:
        ((name, content),) = function.items()
        if name not in _FUNCTION_GROUPS:
            return str(name)
        function = content
    return str(function)


_FUNCTION_GROUPS = frozenset(
    {
        "ArrayExpr",
        "BinaryExpr",
        "Bitwise",
        "Boolean",
        "Categorical",
        "ExtensionExpr",
        "ListExpr",
        "Range",
        "StringExpr",
        "StructExpr",
        "TemporalExpr",
        "Trigonometry",
    }
)


def _names(frame: pl.LazyFrame, trees: list[Tree], place: Place) -> list[str]:
    try:
        return frame.select(to_expression(tree) for tree in trees).collect_schema().names()
    except pl.exceptions.PolarsError as error:
        raise TypeClash(first_line(error), place=place) from error


def first_line(error: BaseException) -> str:
    """The sentence of a Polars error, without its plan."""
    return str(error).strip().split("\n", maxsplit=1)[0] or type(error).__name__
