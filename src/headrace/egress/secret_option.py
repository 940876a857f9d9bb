"""An option whose value is a secret, and which therefore only names it.

Owns `Secret`: `${NAME}` and nothing else, so that no secret stands in a file, a plan or a message.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

_REFERENCE = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}")


def _reference(value: str) -> str:
    if not _REFERENCE.fullmatch(value):
        raise ValueError('a secret does not belong in a file; write "${NAME}" and export it')
    return value


Secret = Annotated[str, AfterValidator(_reference)]
"""`${NAME}`, an environment variable; `references.filled` reads it when the target is opened."""
