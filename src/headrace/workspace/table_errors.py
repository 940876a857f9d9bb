"""What can be wrong with a question to a table.

Owns the errors; the HTTP status of each is in `headrace.workspace.tables_http`.
"""

from __future__ import annotations

from headrace.errors import Fault
from headrace.workspace.errors import WorkspaceError


class TableUnknown(WorkspaceError):
    """No pipeline of the workspace has a table of this name."""

    code = "workspace.table_unknown"


class TableNotHeld(WorkspaceError):
    """The rows of this table are in its topic, and in no worker's memory."""

    code = "workspace.table_not_held"


class QuestionInvalid(WorkspaceError):
    """A key, a window or a limit that cannot be read."""

    code = "workspace.question_invalid"


class TableAway(WorkspaceError):
    """Who holds the rows cannot answer now: it moves, restores, stands still or is not reached."""

    code = "workspace.table_away"
    fault = Fault.RETRY
