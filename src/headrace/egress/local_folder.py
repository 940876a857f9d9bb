"""Whether a folder of this machine is there or can be made, and written to, without trying it.

Owns that question, for connectors that look at their target before they run (`Checks`).
"""

from __future__ import annotations

import os
from pathlib import Path


def folder_problems(folder: Path) -> list[str]:
    """What stands in the way of writing files there; nothing where all is well."""
    # A link that leads nowhere is there, though it does not exist.
    nearest = next(each for each in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(each))
    if not nearest.is_dir():
        return [f"{nearest}: not a folder; name another place, or move it away"]
    if not os.access(nearest, os.W_OK | os.X_OK):
        return [f"{nearest}: not writable; give the egress a folder that it may write"]
    return []
