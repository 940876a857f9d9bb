"""Which expressions may stand in a row-wise step: those whose result for a row depends on that row alone.

Owns the refusal of everything else.

- A row's result may not depend on which rows share its frame: batch size never changes a result.
- A row gives exactly one value.
- The same row gives the same value again: a replay repeats what was published.

Polars' `meta.is_row_separable()` alone is not enough (measured on 2.1): it looks only at the outermost node, so
`col("a") - col("a").mean()` passes; it calls `drop_nulls`, `filter` and `explode` separable, which change the number
of rows; and `is_in(column)` and `replace(column, ...)`, which take the whole column. So every node is looked at: kinds
of node by the list below, functions one by one by Polars, and the rest by name. `row_probe` then tries it out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import polars as pl

from headrace.flow.errors import NotRepeatable, PipelineInvalid, RowDependent, TypeClash
from headrace.flow.expression_tree import Tree, first_line, function_name, root_columns, to_expression, walk
from headrace.flow.values import Place

_AGGREGATE_CURE = "aggregate with .group_by(...).agg(...)"
_ORDER_CURE = "rows come in no fixed batches here; use .map_batches only if the order inside a batch may not matter"
_ALLOWED_NODES = frozenset(
    {"Alias", "BinaryExpr", "Cast", "Column", "Element", "Eval", "Field", "Function", "KeepName", "Literal"}
    | {"RenameAlias", "StructEval", "Ternary"}
)
_REFUSED_NODES: Mapping[str, tuple[str, str]] = {
    "Agg": ("aggregates over rows", _AGGREGATE_CURE),
    "Len": ("counts rows", "use hr.count() in .agg(...)"),
    "Over": ("looks at other rows (over)", _AGGREGATE_CURE),
    "Rolling": ("looks at other rows (rolling)", "use .group_by(...).window(hr.hopping(...)).agg(...)"),
    "Filter": ("drops rows inside an expression (filter)", "use the step .filter(...), or when(...).then(...)"),
    "Explode": ("changes the number of rows (explode)", "use the step .explode(column)"),
    "Slice": ("picks rows by their place (head, tail, slice)", _ORDER_CURE),
    "Gather": ("picks rows by their place (get, gather)", _ORDER_CURE),
    "Sort": ("sorts rows", _ORDER_CURE),
    "SortBy": ("sorts rows", _ORDER_CURE),
}
_CAPITAL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_LENGTH_CHANGING = frozenset({"DropNans", "DropNulls", "Explode", "ExtendConstant", "GatherEvery", "Reshape", "Unique"})
_RANDOM = frozenset({"Random", "Sample", "Shuffle"})
_WHOLE_COLUMN_ARGUMENTS: Mapping[str, slice] = {
    "IsIn": slice(1, 2),
    "Replace": slice(1, 3),
    "ReplaceStrict": slice(1, 3),
}
"""Arguments that Polars reads as one set of values for all rows, where they are columns."""


def check_row_wise(tree: Tree, schema: Mapping[str, pl.DataType], place: Place) -> None:
    """Refuse an expanded tree that is not row-wise."""
    if isinstance(tree, str):
        _check_kind(tree, place)
        return
    assert isinstance(tree, dict), "a node is a text or an object"
    assert len(tree) == 1, "a node has one kind"
    ((kind, content),) = tree.items()
    _check_kind(kind, place)
    if kind == "Literal":
        _check_literal(content, place)
    elif kind == "Function":
        _check_function(tree, schema, place)
    elif kind == "Eval":
        _check_repeatable(content["evaluation"], place)
    for child in _children(kind, content):
        check_row_wise(child, schema, place)


def _children(kind: str, content: Tree) -> list[Tree]:
    """Nodes inside a node that must be row-wise too. What `list.eval` does inside one row's list is free."""
    match kind:
        case "Alias":
            return [content[0]]
        case "BinaryExpr":
            return [content["left"], content["right"]]
        case "Cast" | "RenameAlias":
            return [content["expr"]]
        case "KeepName":
            return [content]
        case "Function":
            return list(content["input"])
        case "Ternary":
            return [content["predicate"], content["truthy"], content["falsy"]]
        case "Eval":
            return [content["expr"]]
        case "StructEval":
            return [content["expr"], *content["evaluation"]]
    return []


def _check_kind(kind: str, place: Place) -> None:
    if kind in _ALLOWED_NODES:
        return
    what, cure = _REFUSED_NODES.get(kind, (f"is of a kind that headrace does not know ({kind})", ""))
    raise RowDependent(f"an expression in a row-wise step {what}", place=place, cure=cure)


def _check_literal(content: Tree, place: Place) -> None:
    if isinstance(content, dict) and "Series" in content:
        raise RowDependent(
            "a whole Series stands for one value here",
            place=place,
            cure="use a list inside .is_in([...]), or one value",
        )
    if content == {"Dyn": {"Float": None}}:
        # JSON has no NaN and no infinity.
        raise PipelineInvalid(
            "a plan cannot hold the number NaN or infinity",
            place=place,
            cure="write lit('NaN').cast(pl.Float64), or 'inf'",
        )


def _check_function(tree: Tree, schema: Mapping[str, pl.DataType], place: Place) -> None:
    name = function_name(tree)
    _check_repeatable(tree["Function"]["function"], place)
    if name in _LENGTH_CHANGING:
        raise RowDependent(
            f"an expression in a row-wise step changes the number of rows ({_spoken(name)})",
            place=place,
            cure="use a step: .filter(...) or .explode(...)",
        )
    if name == "Strptime" and not _is_separable(tree):
        raise RowDependent(
            "without a format, Polars guesses one from the rows of a batch",
            place=place,
            cure="pass format='%Y-%m-%d ...'",
        )
    if not _is_separable(tree) or _reads_whole_column(tree, name, schema, place):
        raise RowDependent(
            f"an expression in a row-wise step looks at other rows ({_spoken(name)})", place=place, cure=_ORDER_CURE
        )


def _check_repeatable(tree: Tree, place: Place) -> None:
    if _mentions(tree, _RANDOM):
        raise NotRepeatable(
            "an expression here is random, so a replay would publish something else",
            place=place,
            cure="derive the choice from a column, such as col('id').hash() % 10",
        )


def _mentions(function: Tree, names: frozenset[str]) -> bool:
    return any(
        (isinstance(node, str) and node in names) or (isinstance(node, dict) and not names.isdisjoint(node))
        for node in walk(function)
    )


def _is_separable(tree: Tree) -> bool:
    """Polars' word on one function alone: operands that need a schema or hide the function are replaced by columns."""
    operands = [_operand(each, index) for index, each in enumerate(tree["Function"]["input"])]
    try:
        return to_expression({"Function": {**tree["Function"], "input": operands}}).meta.is_row_separable()
    except pl.exceptions.PolarsError:
        return False  # Not even Polars can tell.


def _operand(tree: Tree, index: int) -> Tree:
    return tree if isinstance(tree, dict) and "Literal" in tree else {"Column": f"operand_{index}"}


def _reads_whole_column(tree: Tree, name: str, schema: Mapping[str, pl.DataType], place: Place) -> bool:
    arguments = tree["Function"]["input"][_WHOLE_COLUMN_ARGUMENTS.get(name, slice(0, 0))]
    return any(root_columns(each) and not _is_list(each, schema, place) for each in arguments)


def _is_list(tree: Tree, schema: Mapping[str, pl.DataType], place: Place) -> bool:
    try:
        (dtype,) = pl.LazyFrame(schema=dict(schema)).select(to_expression(tree)).collect_schema().dtypes()
    except pl.exceptions.PolarsError as error:
        raise TypeClash(first_line(error), place=place) from error
    return isinstance(dtype, pl.List | pl.Array)


def _spoken(name: str) -> str:
    """`CumSum` as users write it: `cum_sum`."""
    return _CAPITAL.sub("_", name).lower()
