"""What is refused when a pipeline is compiled.

Owns the errors of a pipeline's definition. All of them are `PipelineInvalid`.

- Every error names the file and line of the user's call, what is wrong there, and the next step.
- Nothing was read, written or created when one is raised.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from headrace.errors import HeadraceError, Where
from headrace.flow.values import Place

SUGGESTIONS_MAX = 3
"""Names listed when nothing is close to what the user wrote."""


class PipelineInvalid(HeadraceError):
    """A pipeline that cannot be compiled. Its subclasses say why."""

    code = "flow.pipeline_invalid"

    def __init__(self, message: str, *, place: Place | None = None, cure: str = "") -> None:
        super().__init__(message, where=Where(place.file, place.line) if place else None, cure=cure)


class UserCodeFailed(PipelineInvalid):
    """The user's file raised, or is not Python."""

    code = "flow.user_code_failed"


class UnknownTopic(PipelineInvalid):
    """A topic without a contract."""

    code = "flow.unknown_topic"

    def __init__(self, topic: str, known: Iterable[str], *, place: Place | None) -> None:
        self.topic = topic
        cure = did_you_mean(topic, known) or f"add contracts/{topic}.yaml"
        super().__init__(f"no contract for topic {topic!r}", place=place, cure=cure)


class UnknownColumn(PipelineInvalid):
    """A column that the rows do not have at this step."""

    code = "flow.unknown_column"

    def __init__(self, column: str, known: Iterable[str], *, place: Place, of: str = "") -> None:
        self.column = column
        names = list(known)
        cure = did_you_mean(column, names) or f"the columns here are {_some(names)}"
        super().__init__(f"no column {column!r}{f' in {of}' if of else ''}", place=place, cure=cure)


class TypeClash(PipelineInvalid):
    """A value of a type that does not fit where it is used."""

    code = "flow.type_clash"


class RowDependent(PipelineInvalid):
    """An expression that looks at other rows, in a row-wise step."""

    code = "flow.row_dependent"


class NotRepeatable(PipelineInvalid):
    """An expression that may give another result for the same row."""

    code = "flow.not_repeatable"


class PythonInExpression(PipelineInvalid):
    """A Python function inside an expression; a plan cannot hold it."""

    code = "flow.python_in_expression"


class Unmergeable(PipelineInvalid):
    """An aggregate whose partial results cannot be put together."""

    code = "flow.unmergeable_aggregate"


class Unsubtractable(PipelineInvalid):
    """An aggregate over a table that cannot take rows back."""

    code = "flow.unsubtractable_aggregate"


class MissingEventTime(PipelineInvalid):
    """Event time is needed and no contract says what it is."""

    code = "flow.missing_event_time"


class StepRefused(PipelineInvalid):
    """A step that is not possible on these rows."""

    code = "flow.step_refused"


class OptionInvalid(PipelineInvalid):
    """An argument outside its bounds."""

    code = "flow.option_invalid"


class NameInvalid(PipelineInvalid):
    """A name that columns, steps or topics may not have."""

    code = "flow.name_invalid"


class DuplicateName(PipelineInvalid):
    """Two things of one name."""

    code = "flow.duplicate_name"


class TopicConflict(PipelineInvalid):
    """A topic that is written twice, or read and written."""

    code = "flow.topic_conflict"


class ContractMismatch(PipelineInvalid):
    """What a sink writes is not what the declared contract of its topic says. `column` is the first that differs."""

    code = "flow.contract_mismatch"

    def __init__(self, message: str, *, column: str = "", place: Place, cure: str = "") -> None:
        self.column = column
        super().__init__(message, place=place, cure=cure)


class NothingWritten(PipelineInvalid):
    """A pipeline without a sink, or a sink that only copies."""

    code = "flow.nothing_written"


class PartitionMismatch(PipelineInvalid):
    """Topics that must have equally many partitions have not."""

    code = "flow.partition_mismatch"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The cure for a misspelt name; empty when nothing is close."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else ""


def _some(names: list[str]) -> str:
    shown = ", ".join(names[: SUGGESTIONS_MAX * 4])
    return f"{shown}, ..." if len(names) > SUGGESTIONS_MAX * 4 else shown or "none"
