"""What users' functions raise.

Owns which exceptions cost a row and not the process, and how they are told.
"""

from __future__ import annotations

import asyncio

import polars as pl

RAISED = "process.function_raised"
"""Code of a row whose function raised, or gave something else than it declared."""
MESSAGE_CHARACTERS_MAX = 500
"""Longest part of a user's exception text that goes into a dead letter's header."""
USER_ERRORS = (Exception, SystemExit, GeneratorExit, asyncio.CancelledError, pl.exceptions.PanicException)
"""All that a user's function can raise without meaning the process: `exit()` in one ends no worker."""


def describe(error: BaseException) -> str:
    """Type and text of a user's exception, bounded."""
    try:
        text = str(error)
    except Exception as worse:  # noqa: BLE001 - an exception that cannot be printed is told by its type
        text = f"(cannot be printed: {type(worse).__name__})"
    return f"{type(error).__name__}: {text}"[:MESSAGE_CHARACTERS_MAX]
