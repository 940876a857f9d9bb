"""Errors of catalog and files, as the runner knows them.

Owns the verdict: what is tried again, and what somebody must change first.

- Unknown outcomes are tried again: the table itself tells what came of the commit.
- No message carries a URL's password or a token.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
from pyiceberg import exceptions as iceberg
from requests import RequestException
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    NoSuchModuleError,
    OperationalError,
    ProgrammingError,
    SQLAlchemyError,
)

from headrace.egress.sdk import EgressError, TargetInvalid, TargetUnavailable

_PASSWORD = re.compile(r"(://[^/@:\s]*:)[^/@\s]+@")
_STORE_REFUSES = re.compile(r"ACCESS_DENIED|NO_SUCH_BUCKET|NoSuchBucket|AccessDenied|InvalidAccessKeyId")
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_CATALOG_IS_FULL = "database or disk is full"
"""As SQLite says it, having undone the transaction."""
_LOGIN_REFUSED = re.compile(
    r"authentication failed|no password supplied|no pg_hba\.conf entry|is not permitted to log in"
    r"|Access denied for user|is not allowed to connect|Unknown database|permission denied for database"
    r"|role \".*\" does not exist|database \".*\" does not exist"
)
"""As PostgreSQL, MySQL and MariaDB say it. Their drivers give no code of a connection that was refused, or each its
own, and SQLAlchemy has one error for that and for a server that is away."""
_RIGHTS = (iceberg.UnauthorizedError, iceberg.ForbiddenError, iceberg.OAuthError)
_INVALID = (
    iceberg.BadRequestError,
    iceberg.ValidationError,
    iceberg.NoSuchNamespaceError,
    iceberg.NotInstalledError,
    ArgumentError,
    NoSuchModuleError,
    ProgrammingError,
    NotADirectoryError,
    PermissionError,
    pa.ArrowNotImplementedError,
    ModuleNotFoundError,
)
_PASSING = (
    iceberg.CommitFailedException,
    iceberg.NoSuchTableError,
    iceberg.RESTError,
    RequestException,
    SQLAlchemyError,
    OSError,
)


@contextmanager
def translated(place: str) -> Iterator[None]:
    """Raise what is known of an error here as an `EgressError`."""
    try:
        yield
    except (*_RIGHTS, *_INVALID, *_PASSING) as error:
        raise _classified(place, error) from error


def _classified(place: str, error: Exception) -> EgressError:
    told = f"{place}: {first_line(error)}"
    if isinstance(error, _RIGHTS):
        return TargetInvalid(told, cure="give the egress a token or keys that may write there")
    if isinstance(error, OperationalError) and "unable to open database file" in str(error):
        return TargetInvalid(told, cure="make the folder of the catalog's file, or correct `uri`")
    if isinstance(error, DBAPIError) and _LOGIN_REFUSED.search(str(error.orig)):
        return TargetInvalid(told, cure="mend user, password or rights, or what `uri` names")
    # S3 tells wrong rights and a missing bucket as errors of the operating system.
    if isinstance(error, OSError) and _STORE_REFUSES.search(str(error)):
        return TargetInvalid(told, cure="correct `warehouse`, and give the egress keys that may write there")
    if isinstance(error, _INVALID):
        return TargetInvalid(told, cure="correct `uri`, `warehouse` or `properties`")
    return TargetUnavailable(told)


def never_came(error: Exception) -> bool:
    """Whether it is certain that a commit that failed so did not come."""
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return True
    if isinstance(error, OperationalError) and _CATALOG_IS_FULL in str(error):
        return True
    return isinstance(error, (*_RIGHTS, iceberg.NoSuchTableError))


def first_line(error: Exception) -> str:
    """What is wrong, without passwords."""
    text = str(error).strip().splitlines()
    return _PASSWORD.sub(r"\1***@", f"{type(error).__name__}: {text[0]}" if text else type(error).__name__)
