"""A connector's package to begin with: it works, and passes the suite of all connectors.

Owns the files that `headrace connector new` writes.

- Nothing that exists is overwritten.
- The package needs headrace alone; it writes Arrow files, to be replaced by the client of the target.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from string import Template

from headrace.egress.errors import EgressError

_NAME = re.compile(r"[a-z][a-z0-9-]{0,40}")


class ScaffoldRefused(EgressError):
    """A connector's package that cannot be made so."""

    code = "egress.scaffold_refused"


PYPROJECT = """\
[build-system]
requires = ["hatchling>=1.25,<2"]
build-backend = "hatchling.build"

[project]
name = "headrace-$name"
version = "0.1.0"
description = "headrace egress into $name"
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["headrace"]

[project.optional-dependencies]
test = ["pytest>=8"]

[project.entry-points."headrace.connectors"]
$name = "$package:${title}Connector"

[tool.hatch.build.targets.wheel]
packages = ["src/$package"]

[tool.pytest.ini_options]
testpaths = ["tests"]
pythonpath = ["src"]
addopts = "--import-mode=importlib"
"""

README = """\
# headrace-$name

headrace egress into $name: `append`, at least once.

```yaml
topic: orders
connector: $name
mode: append
options: {path: $name-files}
```

|Option|Meaning|Default|
|-|-|-|
|`path`|The folder; made when it is missing.|required|
|`token`|`$${NAME}`: an environment variable with the secret of the target.|none|

`python -m pytest` runs the suite that every connector passes.
"""

INIT = '''\
"""headrace egress into $name."""

from $package.connector import ${title}Connector

__all__ = ["${title}Connector"]
'''

CONNECTOR = '''\
"""${title} as a target.

Owns the folder of an egress; each flush writes one Arrow file. Replace what touches files by the client of the target.

- A file appears whole: written beside its name, then renamed.
- Positions are not kept in the target, so each row arrives at least once. A target that can store them in the same
  step as the rows says `atomic_positions=True` and returns them from `open`.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from headrace.egress.references import filled
from headrace.egress.sdk import (
    Capabilities,
    ConnectorConfig,
    Contract,
    EgressBatch,
    Mode,
    Options,
    Refused,
    TargetInvalid,
    TargetUnavailable,
)
from headrace.egress.secret_option import Secret
from pyarrow import feather


class ${title}Options(Options):
    """`options:` of an egress with connector `$name`."""

    path: Path
    """The folder; made when it is missing."""
    token: Secret | None = None
    """An environment variable with the secret of the target."""


class ${title}Connector:
    """A `Connector`; its docstring in `headrace.egress.sdk` says the order of calls and what a raise means."""

    capabilities = Capabilities(modes=frozenset({Mode.APPEND}), atomic_positions=False)
    options_model: ClassVar[type[Options]] = ${title}Options

    def __init__(self) -> None:
        self._folder = Path()
        self._token = ""
        self._staged: list[EgressBatch] = []

    def open(self, config: ConnectorConfig, contract: Contract, partitions: Sequence[int]) -> Mapping[int, int]:
        """Make the folder ready. A target without positions returns none."""
        options = _options(config)
        # A secret is read here, never kept in the options: they are shown in plans.
        self._token = filled(options.token, "token") if options.token else ""
        self._folder, self._staged = options.path, []
        with _translated(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        return {}

    def write(self, batch: EgressBatch, positions: Mapping[int, int]) -> Sequence[Refused]:
        """Keep the rows until the flush. A row that the target cannot hold is returned as `Refused`."""
        if len(batch):
            self._staged.append(batch)
        return []

    def flush(self) -> None:
        """Write what is staged; when this returns, it is in the target for good."""
        if self._staged:
            path = self._folder / f"{uuid.uuid4()}.arrow"
            with _translated(self._folder):
                feather.write_feather(EgressBatch.concat(self._staged).rows, path.with_suffix(".tmp"))
                path.with_suffix(".tmp").replace(path)
        self._staged = []

    def close(self) -> None:
        """Drop what is staged."""
        self._staged = []

    def check(self, config: ConnectorConfig, contract: Contract) -> Sequence[str]:
        """For `headrace egress validate`: what stands in the way. Changes nothing."""
        path = _options(config).path
        return [f"{path} is no folder"] if path.exists() and not path.is_dir() else []

    def explain(self, config: ConnectorConfig, contract: Contract, batch: EgressBatch) -> Sequence[str]:
        """For `headrace egress dry-run`: what these rows would become."""
        return [f"write {len(batch)} rows to a file in {_options(config).path}"]


def _options(config: ConnectorConfig) -> ${title}Options:
    assert isinstance(config.options, ${title}Options)
    return config.options


@contextmanager
def _translated(folder: Path) -> Iterator[None]:
    """The errors of the target as those of headrace: tried again, or told to a person."""
    try:
        yield
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise TargetInvalid(f"{folder}: {error.strerror}", cure="give the egress a folder that it may write") from error
    except OSError as error:
        raise TargetUnavailable(f"{folder}: {error.strerror or error}") from error
'''

TEST = '''\
"""The connector passes the suite of all connectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
from headrace.testing.sink_conformance import SinkConformance
from pyarrow import feather

from $package import ${title}Connector


class Test${title}(SinkConformance):
    connector = ${title}Connector

    def options(self, folder: Path) -> dict[str, Any]:
        """Options for a target that is this test's own."""
        return {"path": folder / "rows"}

    def read(self, folder: Path) -> pa.Table:
        """Everything that the target holds."""
        return pa.concat_tables([feather.read_table(file) for file in (folder / "rows").glob("*.arrow")])
'''

FILES = {
    "pyproject.toml": PYPROJECT,
    "README.md": README,
    "src/$package/__init__.py": INIT,
    "src/$package/connector.py": CONNECTOR,
    "tests/test_conformance.py": TEST,
}


def write_connector(folder: Path, name: str) -> Sequence[Path]:
    """Make the package of connector `name`; returns its files, relative to the folder. Raises `ScaffoldRefused`."""
    if not _NAME.fullmatch(name):
        message = f"{name!r} is no name of a connector"
        raise ScaffoldRefused(message, cure="use small letters, digits and dashes, a letter first")
    if folder.exists() and any(folder.iterdir()):
        raise ScaffoldRefused(f"{folder} is not empty", cure="choose another name, or --directory")
    words = {
        "name": name,
        "package": f"headrace_{name.replace('-', '_')}",
        "title": "".join(word.capitalize() for word in name.split("-")),
    }
    files = {Path(Template(path).substitute(words)): Template(text).substitute(words) for path, text in FILES.items()}
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    return list(files)
