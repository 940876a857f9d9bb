"""Where tests find MariaDB; the order is `database_service`'s.

`HEADRACE_TEST_MARIADB=mysql://...` names a server (MySQL's too) whose binary log has rows, and a superuser of it.
"""

from __future__ import annotations

from headrace.errors import Fault, HeadraceError
from headrace.testing.database_service import Container, DatabaseService
from headrace.testing.mariadb import MARIADB, SETTINGS

URL_VARIABLE = "HEADRACE_TEST_MARIADB"


class MariadbMissing(HeadraceError):
    """No MariaDB can be had here."""

    code = "testing.mariadb_missing"
    fault = Fault.STOP


mariadb_service = DatabaseService(
    server=MARIADB,
    url_variable=URL_VARIABLE,
    container=Container(
        image="mariadb:10.11",
        image_variable="HEADRACE_TEST_MARIADB_IMAGE",
        port=3306,
        environment={"MARIADB_ALLOW_EMPTY_ROOT_PASSWORD": "1"},
        command=[f"--{name}={value}" for name, value in SETTINGS.items()],
        ready="ready for connections",
    ),
    missing=MariadbMissing,
).open
