"""`@hr.pipeline`: a function that describes a pipeline.

Owns `Pipeline`, what the decorator makes of a function. The function runs when the pipeline is compiled, not before.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, overload

from headrace.flow.errors import OptionInvalid, PipelineInvalid
from headrace.flow.names import check_step_name
from headrace.flow.options import Duration, duration_ms
from headrace.flow.place import caller_module_file, caller_place
from headrace.flow.plan import Delivery
from headrace.flow.values import Place

COMMIT_INTERVAL_LEAST_MS = 20
"""Shorter ones spend more on commits than on records."""
COMMIT_INTERVAL_MOST_MS = 60_000
"""Longer ones hold transactions open beyond what brokers allow."""

PipelineFunction = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A pipeline function and what its decorator says."""

    name: str
    owner: str
    description: str
    delivery: Delivery
    commit_interval_ms: int
    function: PipelineFunction
    place: Place
    file: str
    """The file that was loaded when this was registered."""


_REGISTERED: ContextVar[list[Pipeline] | None] = ContextVar("headrace_pipelines", default=None)


@contextmanager
def registering() -> Iterator[list[Pipeline]]:
    """Collects the pipelines that are decorated meanwhile, in order."""
    found: list[Pipeline] = []
    token = _REGISTERED.set(found)
    try:
        yield found
    finally:
        _REGISTERED.reset(token)


@overload
def pipeline(function: PipelineFunction, /) -> Pipeline: ...


@overload
def pipeline(
    *,
    owner: str = "",
    name: str | None = None,
    delivery: Delivery | Literal["exactly_once", "at_least_once"] = Delivery.EXACTLY_ONCE,
    commit_interval: Duration = "100ms",
) -> Callable[[PipelineFunction], Pipeline]: ...


def pipeline(
    function: PipelineFunction | None = None,
    /,
    *,
    owner: str = "",
    name: str | None = None,
    delivery: Delivery | Literal["exactly_once", "at_least_once"] = Delivery.EXACTLY_ONCE,
    commit_interval: Duration = "100ms",
) -> Pipeline | Callable[[PipelineFunction], Pipeline]:
    """Make a pipeline of a function without arguments that calls `hr.stream` and `.to(topic)`.

    `name` is the function's own by itself; topics, state and consumer groups are found by it. `commit_interval` is the
    time between commits, and about the latency of results.
    """
    place = caller_place()

    def decorate(function: PipelineFunction) -> Pipeline:
        _check_function(function, place)
        made = Pipeline(
            name=check_step_name(name if name is not None else function.__name__, place),
            owner=owner,
            description=inspect.getdoc(function) or "",
            delivery=_delivery(delivery, place),
            commit_interval_ms=duration_ms(
                commit_interval,
                "commit_interval",
                place,
                least_ms=COMMIT_INTERVAL_LEAST_MS,
                most_ms=COMMIT_INTERVAL_MOST_MS,
            ),
            function=function,
            place=Place(file=function.__code__.co_filename, line=function.__code__.co_firstlineno),
            file=caller_module_file(),
        )
        registered = _REGISTERED.get()
        if registered is not None:
            registered.append(made)
        return made

    return decorate(function) if function is not None else decorate


def _check_function(function: Any, place: Place) -> None:
    if not inspect.isfunction(function) or inspect.iscoroutinefunction(function):
        raise PipelineInvalid(
            "@hr.pipeline stands over something that is no plain function", place=place, cure="put it over a def"
        )
    parameters = inspect.signature(function).parameters.values()
    if any(
        each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD) for each in parameters
    ):
        raise PipelineInvalid(
            f"the pipeline function {function.__name__} has parameters, and nobody to fill them",
            place=place,
            cure="give them defaults, or take them from the module",
        )


def _delivery(delivery: Delivery | str, place: Place) -> Delivery:
    if isinstance(delivery, Delivery):
        return delivery
    if delivery not in {each.value for each in Delivery}:
        raise OptionInvalid(f"delivery is {delivery!r}", place=place, cure='use "exactly_once" or "at_least_once"')
    return Delivery(delivery)
