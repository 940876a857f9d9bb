"""Loading pipeline files.

Owns importing a user's file.

- A file is run under a module name of its own; loading it again runs it again, as it is then.
- Files beside it can be imported by their names, and are read anew each time too.
- A mistake in the file is `UserCodeFailed` with file and line.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from headrace.contracts.contract import Contract
from headrace.flow.compile import call_user_code, compile_pipelines
from headrace.flow.errors import UserCodeFailed
from headrace.flow.pipeline import Pipeline, registering
from headrace.flow.plan import CompiledPipeline
from headrace.flow.values import Place

MODULE_PREFIX = "headrace_pipelines_"


def load_pipelines(path: Path, contracts: Mapping[str, Contract]) -> list[CompiledPipeline]:
    """The plans of all pipelines in a file, in an order in which they can run."""
    return compile_pipelines(read_pipelines(path), contracts)


def read_pipelines(path: Path) -> list[Pipeline]:
    """The pipelines that a file defines, in its order; none for a file that only helps others."""
    file = str(path)
    try:
        code = compile(path.read_bytes(), file, "exec")
    except OSError as error:
        raise UserCodeFailed(f"cannot be read: {error.strerror}", place=Place(file=file, line=0)) from error
    except SyntaxError as error:
        place = Place(file=file, line=error.lineno or 0)
        raise UserCodeFailed(f"{type(error).__name__}: {error.msg}", place=place) from error
    except ValueError as error:  # A null byte.
        raise UserCodeFailed(f"is not Python: {error}", place=Place(file=file, line=0)) from error
    module = ModuleType(_module_name(path))
    module.__file__ = file
    # Dataclasses and type hints look modules up by name.
    sys.modules[module.__name__] = module
    with _beside(path.resolve().parent), registering() as found:
        call_user_code(lambda: exec(code, module.__dict__), Place(file=file, line=0))
    return [pipeline for pipeline in found if pipeline.file == file]


def _module_name(path: Path) -> str:
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    return f"{MODULE_PREFIX}{digest}"


@contextmanager
def _beside(folder: Path) -> Iterator[None]:
    """Imports find the folder's files, and forget them afterwards."""
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None)
            if file is not None and folder in Path(file).resolve().parents:
                del sys.modules[name]
