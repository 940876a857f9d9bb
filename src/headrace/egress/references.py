"""Options that name a secret without holding it.

Owns `${NAME}` in the options of a connector: it stands for an environment variable, read when the target is opened.

- A password in the file itself is refused as the file is read.
- No message carries what a reference stands for.
"""

from __future__ import annotations

import os
import re
from typing import Annotated

from pydantic import AfterValidator, Field

from headrace.egress.errors import TargetInvalid

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_PASSWORD = re.compile(r"://[^/@:]*:(?!\$\{)[^/@]+@|\bpassword\s*=\s*(?!\$\{)", re.IGNORECASE)


def filled(text: str, option: str) -> str:
    """The option's text with every `${NAME}` replaced. Raises `TargetInvalid`."""

    def value(found: re.Match[str]) -> str:
        known = os.environ.get(found.group(1))
        if not known:
            message = f"option {option!r}: environment variable {found.group(1)} is not set"
            raise TargetInvalid(message, cure=f"export {found.group(1)}")
        return known

    return _VARIABLE.sub(value, text)


def _without_password(value: str) -> str:
    if _PASSWORD.search(value):
        raise ValueError('a password does not belong in a file; write "${NAME}" and export it')
    return value


DatabaseUrl = Annotated[str, Field(min_length=1), AfterValidator(_without_password)]
"""Where a database is; `filled` when it is opened."""
