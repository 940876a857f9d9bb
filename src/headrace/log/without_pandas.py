"""PyArrow without pandas, in a process that does not use it.

PyArrow imports pandas, where it is installed, when it makes its first array of anything: a quarter of a second and some
40 MB for a worker that never sees a pandas object, between taking over its partitions and its first row.

- A process that has imported pandas already is left alone.
- Whoever imports pandas later finds it, and PyArrow knows of it from then on.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

import pyarrow as pa

PANDAS = "pandas"


def leave_pandas_out() -> None:
    """Let PyArrow have its look now, and find nothing. Call it once the user's modules are imported."""
    if PANDAS in sys.modules:
        return
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    pa.array([0])
    finder.hides = False


class _Finder(MetaPathFinder):
    """Finds no pandas while PyArrow looks; once, later, the real one."""

    hides = True

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != PANDAS:
            return None
        if self.hides:
            raise ModuleNotFoundError("pandas is not looked for here", name=name)
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Telling(spec.loader)
        return spec


class _Telling(Loader):
    """Loads pandas, and lets PyArrow look again."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        pa.Table.from_pandas(module.DataFrame())
