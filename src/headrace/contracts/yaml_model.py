"""YAML files as pydantic models, with mistakes at their line.

Owns the turning of pydantic's errors into headrace's, for the files of `ingress/` and `egress/`.

- The first mistake is raised; it names the file, the line of the innermost key that the file has, and the cure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from headrace.contracts.yaml_source import YamlInvalid, YamlList, YamlMap, closest, read_yaml
from headrace.errors import HeadraceError, Where

Model = TypeVar("Model", bound=BaseModel)
MakeError = Callable[..., HeadraceError]
"""Called with the message, and `where` and `cure` by name."""


def load_model(path: Path, model: type[Model], *, error: MakeError, help_page: str) -> Model:
    """A file as `model`. `name` is the file's name unless it says another; `where` is the file.

    Raises `YamlInvalid`, or what `error` makes.
    """
    source = read_yaml(path)
    values = {"name": path.stem, **source.plain(), "where": Where(str(path))}
    return checked_model(values, model, source=source, error=error, help_page=help_page)


def checked_model(
    values: Mapping[str, Any],
    model: type[Model],
    *,
    source: YamlMap | None,
    error: MakeError,
    help_page: str,
    prefix: str = "",
    where: Where | None = None,
) -> Model:
    """`values` as `model`; `source` is where they stand, `prefix` the key above them. Raises what `error` makes."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as invalid:
        problem = invalid.errors(include_url=False)[0]
        keys = tuple(problem["loc"])
        dotted = prefix + ".".join(map(str, keys))
        place = _place(source, keys) or where
        if problem["type"] == "extra_forbidden":
            near = closest(str(keys[-1]), model.model_fields) if len(keys) == 1 else None
            cure = f"did you mean {near!r}?" if near else f"take it out; see {help_page}"
            raise error(f"unknown key {dotted!r}", where=place, cure=cure) from invalid
        if problem["type"] == "missing":
            raise error(f"{dotted!r} is missing", where=place, cure=f"add `{keys[-1]}: ...`") from invalid
        raise error(f"{dotted!r}: {problem['msg']}", where=place, cure=f"see {help_page}") from invalid


def place_of(where: Where | None, *keys: str) -> Where | None:
    """Where a key stands in the file that `where` names, for a mistake that is found after the file was read."""
    if where is None:
        return None
    try:
        return _place(read_yaml(Path(where.file)), keys)
    except YamlInvalid:
        return where  # Gone or broken since it was read.


def _place(source: Any, keys: tuple[Any, ...]) -> Where | None:
    """The line of the innermost key that the file has."""
    place: Where | None = source.where() if isinstance(source, YamlMap | YamlList) else None
    for key in keys:
        if isinstance(source, YamlMap):
            place = source.where(str(key))
            source = source.get(str(key))
        elif isinstance(source, YamlList) and isinstance(key, int) and key < len(source):
            place = source.where(key)
            source = source[key]
        else:
            break
    return place
