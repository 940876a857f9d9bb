"""From what the user wrote to checked, named expressions with the column each makes.

Owns the steps of that way: 1 to Polars expressions, 2 to trees, 3 selectors expanded, 4 unknown columns refused,
5 anything not row-wise refused, 6 types inferred on an empty and on an all-null frame, 7 tried out on made-up rows.

- Every expression that leaves here makes exactly one column of exactly the Polars type of its Avro type.
- A plan never holds an expression that did not come this way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from headrace.flow.columns import by_name, computed, dtype_of, is_nullable, schema_of
from headrace.flow.errors import DuplicateName, TypeClash, UnknownColumn
from headrace.flow.expression_tree import (
    Tree,
    copied_column,
    expand,
    first_line,
    read_tree,
    root_columns,
    to_expression,
)
from headrace.flow.nullability import may_be_null
from headrace.flow.row_probe import check_by_example, is_null_in_example
from headrace.flow.row_wise import check_row_wise
from headrace.flow.values import Column, NamedExpression, Place

_LITERAL_NOISE = re.compile(r"dyn (?:int|float): ")


@dataclass(frozen=True, slots=True)
class Resolved:
    """A checked expression and the column it makes. `copies` names the input column it passes on unchanged."""

    named: NamedExpression
    column: Column
    copies: str | None

    @property
    def name(self) -> str:
        return self.column.name


def resolve(
    positional: Iterable[Any],
    named: Mapping[str, Any],
    columns: Sequence[Column],
    place: Place,
    *,
    hidden: bool = False,
) -> list[Resolved]:
    """Check the expressions of a row-wise step over `columns`. `hidden` ones get no name of their own to be checked."""
    written = [*_flat(positional, place), *(_as_named(value).alias(name) for name, value in named.items())]
    schema = schema_of(columns)
    known = by_name(columns)
    trees = [each for expression in written for each in _checked_trees(expression, schema, place)]
    dtypes = _inferred(trees, schema, place)
    resolved = [_resolved(tree, name, dtype, known, place) for tree, (name, dtype) in zip(trees, dtypes, strict=True)]
    if not hidden:
        _refuse_twice(resolved, place)
    check_by_example(
        [(each.name, to_expression(tree)) for each, tree in zip(resolved, trees, strict=True)], schema, place
    )
    return resolved


def resolve_predicate(predicates: Iterable[Any], columns: Sequence[Column], place: Place) -> Resolved:
    """All predicates at once, as one boolean expression."""
    schema = schema_of(columns)
    trees = [each for expression in _flat(predicates, place) for each in _checked_trees(expression, schema, place)]
    if not trees:
        raise TypeClash("filter needs a predicate", place=place, cure="pass one, such as col('x') > 0")
    for tree, (name, dtype) in zip(trees, _inferred(trees, schema, place), strict=True):
        if dtype != pl.Boolean:
            text = readable(to_expression(tree))
            raise TypeClash(f"a predicate must be true or false, but {text} ({name}) is {dtype}", place=place)
    together = to_expression(trees[0])
    for tree in trees[1:]:
        together = together & to_expression(tree)
    (found,) = resolve([together.alias("predicate")], {}, columns, place)
    return replace(found, named=found.named.model_copy(update={"text": readable(together)}))


def passed_on(columns: Iterable[Column]) -> list[Resolved]:
    """Expressions that pass these columns on."""
    return [
        Resolved(named=_named(column.name, {"Column": column.name}), column=column, copies=column.name)
        for column in columns
    ]


def renamed(column: Column, name: str) -> Resolved:
    """An expression that passes a column on under another name."""
    tree = {"Alias": [{"Column": column.name}, name]}
    return Resolved(_named(name, tree), column.model_copy(update={"name": name}), copies=column.name)


def readable(expression: pl.Expr) -> str:
    """Polars' own text of an expression, without the marks of untyped literals."""
    return _LITERAL_NOISE.sub("", str(expression))


def _flat(values: Iterable[Any], place: Place) -> list[pl.Expr]:
    found: list[pl.Expr] = []
    for value in values:
        if isinstance(value, pl.Expr):
            found.append(value)
        elif isinstance(value, str):
            found.append(pl.col(value))
        elif isinstance(value, bool):
            found.append(pl.lit(value))
        elif isinstance(value, list | tuple):
            found.extend(_flat(value, place))
        else:
            raise TypeClash(
                f"{type(value).__name__} is no expression", place=place, cure="pass a column's name or col(...)"
            )
    return found


def _as_named(value: Any) -> pl.Expr:
    """A keyword argument as Polars reads it: a text names a column, other values stand for themselves."""
    if isinstance(value, pl.Expr):
        return value
    return pl.col(value) if isinstance(value, str) else pl.lit(value)


def _checked_trees(expression: pl.Expr, schema: Mapping[str, pl.DataType], place: Place) -> list[Tree]:
    tree = read_tree(expression, place)
    _refuse_unknown(tree, schema, place)
    trees = expand(tree, schema, place)
    for each in trees:
        check_row_wise(each, schema, place)
    return trees


def _refuse_unknown(tree: Tree, schema: Mapping[str, pl.DataType], place: Place) -> None:
    for name in (*root_columns(tree), *_selected_by_name(tree)):
        if name not in schema:
            raise UnknownColumn(name, schema, place=place)


def _selected_by_name(tree: Tree) -> list[str]:
    """Names that a selector must find: `pl.col("a", "b")`."""
    selector = tree.get("Selector") if isinstance(tree, dict) else None
    by_name = selector.get("ByName") if isinstance(selector, dict) else None
    return list(by_name["names"]) if by_name and by_name.get("strict") else []


def _inferred(trees: Sequence[Tree], schema: Mapping[str, pl.DataType], place: Place) -> list[tuple[str, pl.DataType]]:
    """Name and type of each tree's column, as planned by Polars and as shown by running it.

    Planning alone is not enough: `col("text").dt.year()` has a planned type and fails only when it runs.
    """
    empty = pl.DataFrame(schema=dict(schema))
    nulls = pl.DataFrame({name: pl.Series(name, [None], dtype=dtype) for name, dtype in schema.items()})
    found = []
    for tree in trees:
        try:
            ((name, planned),) = empty.lazy().select(to_expression(tree)).collect_schema().items()
            empty.select(to_expression(tree))
            shown = nulls.select(to_expression(tree)).dtypes[0]
        except pl.exceptions.StructFieldNotFoundError as error:
            raise TypeClash(f"the struct has no field {first_line(error)!r}", place=place) from error
        except pl.exceptions.PolarsError as error:
            raise _type_clash(error, place) from error
        found.append((name, planned if shown == pl.Null else shown))
    return found


def _type_clash(error: pl.exceptions.PolarsError, place: Place) -> TypeClash:
    """What Polars says; its advice is the cure."""
    message, _, advice = first_line(error).partition("; try ")
    return TypeClash(
        message, place=place, cure=f"try {advice}" if advice else "cast one side, or use another expression"
    )


def _resolved(tree: Tree, name: str, dtype: pl.DataType, known: Mapping[str, Column], place: Place) -> Resolved:
    copies = copied_column(tree)
    if copies is not None:
        column = known[copies].model_copy(update={"name": name})
        return Resolved(_named(name, tree), column, copies)
    roots = [known[root] for root in root_columns(tree)]
    nullable = _can_be_null(tree, known)
    column = computed(name, dtype, roots, may_be_null=nullable, place=place)
    return Resolved(_named(name, _cast_to(tree, dtype, dtype_of(column), name)), column, None)


def _can_be_null(tree: Tree, known: Mapping[str, Column]) -> bool:
    never_null = {name for name, column in known.items() if not is_nullable(column.type)}
    if may_be_null(tree, lambda root: root not in never_null):
        return True
    return is_null_in_example(to_expression(tree), schema_of(known.values()), never_null)


def _cast_to(tree: Tree, have: pl.DataType, want: pl.DataType, name: str) -> Tree:
    """Polars has types that Avro has not (`UInt32`, `Int8`); the frame gets the type that the Avro type stands for."""
    if have == want:
        return tree
    casted: Tree = json.loads(to_expression(tree).cast(want).alias(name).meta.serialize(format="json"))
    return casted


def _named(name: str, tree: Tree) -> NamedExpression:
    text = json.dumps(tree, separators=(",", ":"))
    return NamedExpression(name=name, expression=text, text=readable(to_expression(tree)))


def _refuse_twice(resolved: Sequence[Resolved], place: Place) -> None:
    seen: set[str] = set()
    for each in resolved:
        if each.name in seen:
            raise DuplicateName(
                f"two expressions make a column {each.name!r}", place=place, cure="name one with .alias('other')"
            )
        seen.add(each.name)
