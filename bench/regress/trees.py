"""The two sides: the working tree, and a revision laid out beside it.

Owns `.cache/bench/regress`.

- A revision's files are written once, by `git archive`; the repository's own state is not touched.
- Where Rust is, each side's native package is built from its own sources, whatever is installed; without Rust, and for
  revisions that have none, that side runs without.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache" / "bench" / "regress"
LIBRARY = "libheadrace_native.so"
MODULE = "_native.abi3.so"
BUILD_TIMEOUT_S = 1_800.0


class RevisionUnknown(Exception):
    """Git does not know it, or cannot write it out."""


@dataclass(frozen=True, slots=True)
class Side:
    """Where headrace is taken from."""

    name: str
    root: Path
    native: Path | None = None
    """The folder with the built package `headrace_native`."""

    def environment(self) -> dict[str, str]:
        """For a process of this side."""
        paths = [self.root / "src", *([self.native] if self.native else []), ROOT]
        switch = {} if self.native else {"HEADRACE_NATIVE": "0"}
        # Threads of Polars come and go between runs of one process; one each makes sides alike.
        return {
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "PYTHONHASHSEED": "0",
            "POLARS_MAX_THREADS": "1",
        } | switch


def working_tree() -> Side:
    """As it is now."""
    return with_native(Side("working tree", ROOT))


def revision(name: str) -> Side:
    """As it was committed."""
    commit = _git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}", of=name).strip()
    folder = CACHE / commit[:16]
    if not (folder / "src").is_dir():
        partial = CACHE / f"{commit[:16]}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        archive = CACHE / f"{commit[:16]}.tar"
        _git("archive", "--format=tar", f"--output={archive}", commit, of=name)
        with tarfile.open(archive) as packed:
            packed.extractall(partial, filter="data")
        archive.unlink()
        partial.rename(folder)
    return with_native(Side(f"{name} ({commit[:10]})", folder))


def with_native(side: Side) -> Side:
    """The same with its native package built, where that can be."""
    sources = side.root / "native"
    cargo = shutil.which("cargo")
    if cargo is None or not (sources / "Cargo.toml").is_file():
        return side
    target = CACHE / "target"  # Of all sides: what they depend on is built once.
    command = [cargo, "build", "--release", "--quiet", "--features", "pyo3/extension-module"]
    environment: Mapping[str, str] = {**os.environ, "CARGO_TARGET_DIR": str(target)}
    subprocess.run(command, cwd=sources, env=environment, timeout=BUILD_TIMEOUT_S, check=True)
    package = CACHE / "native" / side.root.name / "headrace_native"
    shutil.rmtree(package, ignore_errors=True)
    shutil.copytree(
        sources / "python" / "headrace_native", package, ignore=shutil.ignore_patterns("*.so", "__pycache__")
    )
    shutil.copy2(target / "release" / LIBRARY, package / MODULE)
    return Side(side.name, side.root, package.parent)


def _git(*arguments: str, of: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RevisionUnknown(f"no revision {of!r} in this repository: {done.stderr.strip()}".rstrip(": "))
    return done.stdout
