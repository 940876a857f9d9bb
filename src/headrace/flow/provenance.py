"""What a step works on, as a digest.

Owns the digests that tell apart stateful steps which would have one name: state is found by name, and a name with a
number at its end may move to another step when the pipeline is edited.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel

from headrace.flow.draft import Draft
from headrace.flow.values import StatefulStep


def ambiguous(drafts: Iterable[Draft]) -> set[Draft]:
    """Stateful steps that share a made-up name with another one."""
    unnamed = [draft for draft in drafts if issubclass(draft.type, StatefulStep) and draft.explicit_name is None]
    by_name: dict[str, list[Draft]] = {}
    for draft in unnamed:
        by_name.setdefault(draft.made_name, []).append(draft)
    return {draft for found in by_name.values() if len(found) > 1 for draft in found}


def upstream_digest(draft: Draft) -> str:
    """Of all steps above a step, up to its sources: another one when what they do is changed."""
    return hashlib.sha256("\n".join(_texts(draft)).encode()).hexdigest()


def _texts(draft: Draft) -> list[str]:
    texts = [text for above in draft.inputs for text in _texts(above)]
    fields = ", ".join(f"{name}={_plain(value)}" for name, value in sorted(draft.fields.items()))
    return [*texts, f"{draft.type.__name__}({fields})"]


def _plain(value: Any) -> str:
    """A field as text, without places in the user's files."""
    if isinstance(value, BaseModel):
        return value.model_dump_json(exclude={"place"})
    if isinstance(value, list | tuple):
        return f"[{', '.join(_plain(each) for each in value)}]"
    return repr(value)
