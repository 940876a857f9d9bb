"""Compiling pipelines: from decorated functions to plans.

Owns running the user's function and the order of pipelines that read each other's topics.

- Compiling reads contracts and nothing else; twice the same gives the same plan.
- Whatever a user's code raises leaves here as `PipelineInvalid` with file and line.
- A topic is written by one pipeline.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from headrace.contracts.contract import Contract
from headrace.errors import HeadraceError
from headrace.flow.derived import derived_contract
from headrace.flow.draft import Compilation, compiling
from headrace.flow.errors import (
    DuplicateName,
    NothingWritten,
    PipelineInvalid,
    TopicConflict,
    UnknownTopic,
    UserCodeFailed,
)
from headrace.flow.pipeline import Pipeline
from headrace.flow.plan import CompiledPipeline
from headrace.flow.rows import Rows
from headrace.flow.sink import Sink
from headrace.flow.topology import plan_of
from headrace.flow.values import Place


def compile_pipeline(
    pipeline: Pipeline, contracts: Mapping[str, Contract], *, derived: Mapping[str, Contract] | None = None
) -> CompiledPipeline:
    """The plan of a pipeline over topics with these contracts. Raises `PipelineInvalid`.

    `contracts` are the declared ones: what a sink writes must fit the one of its topic. `derived` are of topics that
    other pipelines write.
    """
    compilation = Compilation(contracts, derived or {})
    with compiling(compilation):
        returned = call_user_code(pipeline.function, pipeline.place)
    _check_returned(returned, pipeline)
    if not compilation.sinks:
        raise NothingWritten(
            f"pipeline {pipeline.name!r} writes nothing", place=pipeline.place, cure="end it with .to(topic)"
        )
    return plan_of(pipeline, compilation)


def compile_pipelines(pipelines: Iterable[Pipeline], contracts: Mapping[str, Contract]) -> list[CompiledPipeline]:
    """The plans of pipelines that may read topics which others of them write; in an order in which they can run."""
    waiting = list(pipelines)
    _refuse_same_names(waiting)
    derived: dict[str, Contract] = {}
    writers: dict[str, Pipeline] = {}
    done: list[CompiledPipeline] = []
    while waiting:
        blocked: list[Pipeline] = []
        unknown: UnknownTopic | None = None
        for pipeline in waiting:
            try:
                compiled = compile_pipeline(pipeline, contracts, derived=derived)
            except UnknownTopic as error:  # Perhaps one that is still waiting writes it.
                blocked.append(pipeline)
                unknown = unknown or error
                continue
            _claim(compiled, pipeline, writers)
            derived |= {each.topic: derived_contract(compiled.plan, each) for each in compiled.plan.outputs}
            done.append(compiled)
        if unknown is not None and len(blocked) == len(waiting):
            raise unknown
        waiting = blocked
    return done


def _refuse_same_names(pipelines: Sequence[Pipeline]) -> None:
    seen: dict[str, Pipeline] = {}
    for pipeline in pipelines:
        other = seen.setdefault(pipeline.name, pipeline)
        if other is not pipeline:
            raise DuplicateName(
                f"pipeline {pipeline.name!r} is defined at {other.place.file}:{other.place.line} too",
                place=pipeline.place,
                cure="give one of them another name",
            )


def _claim(compiled: CompiledPipeline, pipeline: Pipeline, writers: dict[str, Pipeline]) -> None:
    for output in compiled.plan.outputs:
        other = writers.setdefault(output.topic, pipeline)
        if other is not pipeline:
            raise TopicConflict(
                f"{output.topic!r} is written by pipeline {other.name!r} too",
                place=pipeline.place,
                cure="write to another topic, or merge both in one pipeline",
            )


def call_user_code(function: Any, place: Place) -> Any:
    """Call it; what it raises becomes an error with the innermost line of the user's file."""
    try:
        return function()
    except HeadraceError:
        raise
    except (Exception, SystemExit) as error:
        raise user_code_failed(error, place) from error


def user_code_failed(error: BaseException, place: Place) -> UserCodeFailed:
    """The error for what the user's code raised; `place.file` is their file."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == place.file]
    line = next((each for each in reversed(lines) if each is not None), place.line)
    text = str(error).strip().split("\n", maxsplit=1)[0]
    message = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return UserCodeFailed(message, place=Place(file=place.file, line=line))


def _check_returned(returned: Any, pipeline: Pipeline) -> None:
    values = returned if isinstance(returned, tuple | list) else () if returned is None else (returned,)
    for value in values:
        if isinstance(value, Sink):
            continue
        what = "a stream or table" if isinstance(value, Rows) else type(value).__name__
        raise PipelineInvalid(
            f"pipeline {pipeline.name!r} returns {what}, not what .to(topic) returns",
            place=pipeline.place,
            cure="end it with .to(topic)",
        )
