"""Whether an expression can give null.

Owns the proof that it cannot. What is not proven may be null.

- The proof looks at the expression only; the caller tries it out, because `fill_null("x")` on an enum without `x`
  gives null all the same.
- Wrongly "may be null" costs a union in the derived schema; wrongly "never null" would fail rows when they are
  encoded. So the list of what keeps non-null is short.
"""

from __future__ import annotations

from collections.abc import Callable

from headrace.flow.expression_tree import Tree, function_name

_NEVER_NULL = frozenset({"AsStruct", "IsNotNull", "IsNull"})
_NULL_ONLY_FROM_NULL = frozenset(
    {
        "Abs",
        "AllHorizontal",
        "AnyHorizontal",
        "Clip",
        "ConcatHorizontal",
        "Date",
        "Day",
        "EndsWith",
        "Hour",
        "IsBetween",
        "IsFinite",
        "IsInfinite",
        "IsNan",
        "IsNotNan",
        "LenBytes",
        "LenChars",
        "Length",
        "Lowercase",
        "Millisecond",
        "Minute",
        "Month",
        "Negate",
        "Not",
        "OrdinalDay",
        "Round",
        "Second",
        "StartsWith",
        "TotalDays",
        "TotalHours",
        "TotalMilliseconds",
        "TotalMinutes",
        "TotalSeconds",
        "Truncate",
        "Uppercase",
        "Week",
        "WeekDay",
        "Year",
    }
)
_FIRST_NOT_NULL = frozenset({"Coalesce", "FillNull", "MaxHorizontal", "MinHorizontal"})
_NULL_BY_ZERO = frozenset({"FloorDivide", "Modulus"})
"""Of integers, by zero."""
_NEVER_NULL_OPERATORS = frozenset({"EqValidity", "NotEqValidity"})


def may_be_null(tree: Tree, column_is_nullable: Callable[[str], bool]) -> bool:
    """Whether an expanded tree can give null for rows whose columns obey `column_is_nullable`."""

    def of(node: Tree) -> bool:
        return may_be_null(node, column_is_nullable)

    if not isinstance(tree, dict):
        return True
    ((kind, content),) = tree.items()
    match kind:
        case "Column":
            return column_is_nullable(content)
        case "Literal":
            return not _is_plain_value(content)
        case "Alias":
            return of(content[0])
        case "KeepName":
            return of(content)
        case "RenameAlias":
            return of(content["expr"])
        case "Cast":
            return content["options"] != "Strict" or of(content["expr"])
        case "Ternary":
            return of(content["truthy"]) or of(content["falsy"])
        case "BinaryExpr":
            return _operator_may_be_null(content, of)
        case "Function":
            return _function_may_be_null(tree, of)
    return True


def _is_plain_value(content: Tree) -> bool:
    if not isinstance(content, dict):
        return False
    if "Dyn" in content:
        return True
    scalar = content.get("Scalar")
    return isinstance(scalar, dict) and "Null" not in scalar


def _operator_may_be_null(content: Tree, of: Callable[[Tree], bool]) -> bool:
    if content["op"] in _NEVER_NULL_OPERATORS:
        return False
    if content["op"] in _NULL_BY_ZERO:
        return True
    return of(content["left"]) or of(content["right"])


def _function_may_be_null(tree: Tree, of: Callable[[Tree], bool]) -> bool:
    name, inputs = function_name(tree), tree["Function"]["input"]
    if name in _NEVER_NULL:
        return False
    if name in _FIRST_NOT_NULL:
        return all(of(each) for each in inputs)
    if name in _NULL_ONLY_FROM_NULL:
        return any(of(each) for each in inputs)
    return True
