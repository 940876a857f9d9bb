"""Steps that call a user's function.

Owns what may be passed and the columns of the result.

- The plan holds a reference and a digest of the function; the function itself stays with the compiled pipeline.
- Nothing is known of what a function does: every column comes from every column before, and keys are lost.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from headrace.flow.columns import combined_lineage, declared_column, require
from headrace.flow.draft import Compilation, Draft
from headrace.flow.errors import OptionInvalid, TypeClash
from headrace.flow.group_types import check_group_types
from headrace.flow.names import check_columns, step_name
from headrace.flow.options import Duration, duration_ms, whole
from headrace.flow.place import function_reference
from headrace.flow.steps import MapAsyncStep, MapStep
from headrace.flow.values import Place, Step

CONCURRENCY_MAX = 10_000
"""Coroutines of one step at once in one process; each holds a row and often a connection."""
RETRIES_MAX = 100
"""Beyond it a row that cannot be done would hold up all behind it."""
TRIES_MAX_MS = 4 * 60 * 1000
"""All tries of a row together: the rows behind it wait, and a worker that reads nothing for five minutes loses its
partitions."""


def map_draft(
    compilation: Compilation, draft: Draft, mode: str, function: Any, schema: Mapping[str, Any], place: Place
) -> Draft:
    """A function over frames (`batches`) or over one row at a time (`rows`)."""
    step = "map_batches" if mode == "batches" else "map"
    _check_callable(function, step, place)
    if inspect.iscoroutinefunction(function):
        raise TypeClash(f"{step} cannot await", place=place, cure="use .map_async(function, schema=...)")
    return _draft(compilation, draft, MapStep, step, function, schema, place, mode=mode)


def map_async_draft(
    compilation: Compilation,
    draft: Draft,
    function: Any,
    schema: Mapping[str, Any],
    place: Place,
    *,
    concurrency: int,
    timeout: Duration,
    retries: int,
    one_at_a_time_by: str | Sequence[str],
) -> Draft:
    """A coroutine per row."""
    _check_callable(function, "map_async", place)
    called = function if inspect.isfunction(function) else getattr(function, "__call__", function)  # noqa: B004
    if not (inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called)):
        raise TypeClash(
            "map_async needs a coroutine function", place=place, cure="define it with async def, or use .map"
        )
    timeout_ms = duration_ms(timeout, "timeout", place, least_ms=1, most_ms=TRIES_MAX_MS)
    whole(retries, "retries", place, least=0, most=RETRIES_MAX)
    if timeout_ms * (retries + 1) > TRIES_MAX_MS:
        raise OptionInvalid(
            f"{retries + 1} tries of {timeout_ms} ms are more than {TRIES_MAX_MS} ms",
            place=place,
            cure="give a shorter timeout or fewer retries; the rows behind a row wait for it",
        )
    serial = (one_at_a_time_by,) if isinstance(one_at_a_time_by, str) else tuple(one_at_a_time_by)
    check_group_types(require(serial, draft.columns, place), place)
    return _draft(
        compilation,
        draft,
        MapAsyncStep,
        "map_async",
        function,
        schema,
        place,
        concurrency=whole(concurrency, "concurrency", place, least=1, most=CONCURRENCY_MAX),
        timeout_ms=timeout_ms,
        retries=retries,
        one_at_a_time_by=serial,
    )


def _check_callable(function: Any, step: str, place: Place) -> None:
    if not callable(function):
        raise TypeClash(f"{step} needs a function, not {type(function).__name__}", place=place)


def _draft(
    compilation: Compilation,
    draft: Draft,
    step: type[Step],
    verb: str,
    function: Any,
    schema: Mapping[str, Any],
    place: Place,
    **fields: Any,
) -> Draft:
    if not isinstance(schema, Mapping) or not schema:
        raise OptionInvalid(
            f"{verb} needs the columns of its result", place=place, cure='pass schema={"column": pl.Int64, ...}'
        )
    check_columns(schema, place)
    lineage = combined_lineage(draft.columns)
    columns = tuple(declared_column(name, given, place=place, lineage=lineage) for name, given in schema.items())
    facts = draft.facts.unpartitioned().computed_anew(columns).influenced(lineage)
    reference = function_reference(function, place)
    name = step_name(verb, [reference.name.rpartition(".")[2].strip("<>")])
    return compilation.add(step, name, (draft,), facts, place, functions={"": function}, function=reference, **fields)
