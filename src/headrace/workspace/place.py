"""Where a workspace is, and where it keeps what is its own.

Owns the search for `headrace.toml`. Reads nothing and imports next to nothing: `headrace run` starts a worker for the
folder before it loads anything itself.
"""

from __future__ import annotations

from pathlib import Path

from headrace.workspace.errors import WorkspaceNotFound

CONFIG_FILE = "headrace.toml"
LOCAL_FOLDER = ".headrace"


def find_workspace(path: Path | None = None) -> Path:
    """The file of the workspace at `path`: a folder, the file itself, or None for the current folder and those above
    it. Raises `WorkspaceNotFound`."""
    start = (path or Path.cwd()).absolute()
    if path is not None:
        file = start / CONFIG_FILE if start.is_dir() else start
        if file.is_file():
            return file
        raise WorkspaceNotFound(f"no {CONFIG_FILE} at {file}", cure="name the folder of a workspace")
    for folder in (start, *start.parents):
        if (folder / CONFIG_FILE).is_file():
            return folder / CONFIG_FILE
    raise WorkspaceNotFound(
        f"no {CONFIG_FILE} in {start} or above", cure="go to a workspace, or make one with `headrace init NAME`"
    )
