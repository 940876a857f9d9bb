"""Where tests find MariaDB, or a MySQL in its place; the order is `database_service`'s.

- `HEADRACE_TEST_MARIADB=mysql://...` names a server (MySQL's too) whose binary log has rows, and a superuser of it.
- `HEADRACE_TEST_MYSQL_ROOT=DIRECTORY` has all these tests run on the MySQL that was unpacked there.
"""

from __future__ import annotations

import os

from headrace.errors import Fault, HeadraceError
from headrace.testing.database_server import DatabaseServer
from headrace.testing.database_service import Container, DatabaseService
from headrace.testing.mariadb import MARIADB, SETTINGS
from headrace.testing.mysql import MYSQL, ROOT_VARIABLE

URL_VARIABLE = "HEADRACE_TEST_MARIADB"


SERVER: DatabaseServer = MYSQL if os.environ.get(ROOT_VARIABLE) else MARIADB
"""The kind that tests start."""


class MariadbMissing(HeadraceError):
    """No MariaDB can be had here."""

    code = "testing.mariadb_missing"
    fault = Fault.STOP


mariadb_service = DatabaseService(
    server=SERVER,
    url_variable=URL_VARIABLE,
    container=None
    if SERVER is MYSQL
    else Container(
        image="mariadb:10.11",
        image_variable="HEADRACE_TEST_MARIADB_IMAGE",
        port=3306,
        environment={"MARIADB_ALLOW_EMPTY_ROOT_PASSWORD": "1"},
        command=[f"--{name}={value}" for name, value in SETTINGS.items()],
        ready="ready for connections",
    ),
    missing=MariadbMissing,
).open
