"""Where the user wrote something, and what function they wrote.

Owns `caller_place` and `function_reference`.

- A place is the innermost frame outside headrace.
- A digest depends on the function's text, not on where its file lies or which process reads it.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import linecache
import sys
import textwrap
from types import CellType, CodeType, FrameType, FunctionType
from typing import Any

from headrace.flow.values import FunctionReference, Place


def caller_place() -> Place:
    """The user's line that called into headrace."""
    frame = _user_frame()
    return Place(file=frame.f_code.co_filename, line=frame.f_lineno)


def caller_module_file() -> str:
    """The file whose top level is running below the user's line: that file gets what is registered now."""
    frame: FrameType | None = _user_frame()
    file = frame.f_code.co_filename if frame else ""
    while frame is not None:
        if frame.f_code.co_name == "<module>":
            return frame.f_code.co_filename
        frame = frame.f_back
    return file


def _user_frame() -> FrameType:
    frame = sys._getframe(1)
    while _is_ours(frame) and frame.f_back is not None:
        frame = frame.f_back
    return frame


def _is_ours(frame: FrameType) -> bool:
    name = frame.f_globals.get("__name__", "")
    return name == "headrace" or str(name).startswith("headrace.")


def function_reference(function: Any, place: Place) -> FunctionReference:
    """How a plan names a user's function or object; `place` stands in for one that has no Python source."""
    target = function.func if isinstance(function, functools.partial) else inspect.unwrap(function)
    code = getattr(target, "__code__", None)
    if isinstance(code, CodeType):
        place = Place(file=code.co_filename, line=code.co_firstlineno)
    name = getattr(target, "__qualname__", type(target).__qualname__).replace("<locals>.", "")
    # An edited file may have been loaded before in this process; its old lines must not count.
    linecache.checkcache()
    return FunctionReference(name=name, place=place, digest=hashlib.sha256(_text(function).encode()).hexdigest())


def _text(target: Any) -> str:
    """What the target does, in words that change when it does: its source and the plain values it was made with."""
    if isinstance(target, functools.partial):
        return repr((_text(target.func), _plain(target.args), _plain(sorted(target.keywords.items()))))
    target = inspect.unwrap(target)
    if inspect.ismethod(target):
        return _text(target.__func__) + _text(target.__self__)
    if inspect.isfunction(target):
        cells = [cell.cell_contents for cell in target.__closure__ or () if _is_filled(cell)]
        return _source(target) + repr((_plain(cells), _plain(target.__defaults__)))
    if inspect.isbuiltin(target):
        return target.__qualname__
    kind = target if isinstance(target, type) else type(target)
    settings = _plain(sorted(vars(target).items())) if hasattr(target, "__dict__") and kind is not target else ""
    return repr((_class_text(kind), settings))


def _class_text(kind: type) -> str:
    """The methods and plain attributes of a user's class and its bases. Not its source as a whole: Python finds that
    only while its module is registered."""
    members: list[tuple[str, str]] = []
    for base in kind.__mro__:
        if base.__module__ == "builtins" or base.__module__.startswith("headrace."):
            continue
        for name, member in sorted(vars(base).items()):
            if inspect.isfunction(member):
                members.append((name, _source(member)))
            elif not name.startswith("__"):
                members.append((name, _plain(member)))
    return repr(members)


def _source(function: FunctionType) -> str:
    try:
        return textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):
        return _code_text(function.__code__)


def _is_filled(cell: CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:  # Assigned after the function was made.
        return False


def _plain(value: Any) -> str:
    """The text of plain values; others count by their type, because their text may hold an address."""
    if value is None or isinstance(value, bool | int | float | str | bytes | type):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(_plain(each) for each in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_plain(key)}: {_plain(each)}' for key, each in value.items())}}}"
    return f"<{type(value).__qualname__}>"


def _code_text(code: CodeType) -> str:
    constants = [_code_text(each) if isinstance(each, CodeType) else repr(each) for each in code.co_consts]
    return repr((code.co_code.hex(), constants, code.co_names))
