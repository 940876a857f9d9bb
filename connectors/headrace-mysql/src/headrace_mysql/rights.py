"""What the user may do, before anything is written.

Owns the reading of SHOW GRANTS: rights of the server, of the database and of a table, those of the session's roles too.

- A right to some columns alone counts as one to the table: whether they are the right ones is found when rows come.
- What cannot be read as a grant gives nothing; a user who may do everything is known by `ALL PRIVILEGES`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence

from pymysql.connections import Connection

from headrace_mysql.session import rows

_GRANT = re.compile(
    r"(GRANT|REVOKE) (.+) ON (?:TABLE )?(\*|`(?:[^`]|``)+`)\.(\*|`(?:[^`]|``)+`) (?:TO|FROM) .*", re.DOTALL
)
_COLUMNS = re.compile(r"\s*\([^)]*\)")
_EVERYTHING = "ALL PRIVILEGES"

DATABASE = "*"
"""In the place of a table: what can be granted of the whole database alone."""
_SERVER = "*"
"""In the place of a database."""

Grant = tuple[str, str, str, frozenset[str]]
"""GRANT or REVOKE, database, table, and rights."""


class Rights:
    """What the user of a session may do in its database."""

    def __init__(self, connection: Connection) -> None:
        ((database,),) = rows(connection, "SELECT database()")
        grants = list(_grants(connection))
        patterns = [pattern for _, pattern, of, _ in grants if pattern != _SERVER and of == DATABASE]
        # Of several patterns the server looks at the one alone that says most of the name.
        nearest = max((each for each in patterns if _covers(each, database)), key=_literal_characters, default=None)
        # A grant of a table names its database, and is no pattern.
        self._grants = [
            each for each in grants if each[1] in ((_SERVER, nearest) if each[2] == DATABASE else (database,))
        ]

    def missing(self, table: str, wanted: Sequence[str]) -> Sequence[str]:
        """Those of the rights that the user does not have to a table, or to the `DATABASE`."""
        return [right for right in wanted if not self._has(right, table)]

    def _has(self, right: str, table: str) -> bool:
        has = False
        for kind, _, of, rights in self._grants:
            if of in (DATABASE, table) and rights & {right, _EVERYTHING}:
                # What is revoked stands behind what is granted.
                has = kind == "GRANT"
        return has


def _grants(connection: Connection) -> Iterator[Grant]:
    told = [str(row[0]) for row in rows(connection, "SHOW GRANTS")]
    for line in told:
        found = _GRANT.fullmatch(line)
        if found is not None:
            kind, rights, database, table = found.groups()
            named = frozenset(each.strip().upper() for each in _COLUMNS.sub("", rights).split(","))
            yield kind, _unquoted(database), _unquoted(table), named


def _covers(pattern: str, database: str) -> bool:
    """A database's name in a grant is a pattern, in which a backslash takes the meaning of `%` and `_`."""
    parts = re.findall(r"\\.|.", pattern, re.DOTALL)
    wild = {"%": ".*", "_": "."}
    return (
        re.fullmatch("".join(wild.get(each) or re.escape(each[-1]) for each in parts), database, re.DOTALL) is not None
    )


def _literal_characters(pattern: str) -> int:
    """How many stand before the first that stands for others."""
    wild = re.search(r"(?<!\\)[%_]", pattern)
    return sys.maxsize if wild is None else wild.start()


def _unquoted(name: str) -> str:
    return name if name == "*" else name[1:-1].replace("``", "`")
