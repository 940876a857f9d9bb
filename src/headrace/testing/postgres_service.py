"""Where tests find PostgreSQL; the order is `database_service`'s.

`HEADRACE_TEST_POSTGRES=postgresql://...` names a server with `wal_level=logical` and a superuser of it.
"""

from __future__ import annotations

from headrace.errors import Fault, HeadraceError
from headrace.testing.database_service import Container, DatabaseService
from headrace.testing.postgres import POSTGRES, SETTINGS

URL_VARIABLE = "HEADRACE_TEST_POSTGRES"


class PostgresMissing(HeadraceError):
    """No PostgreSQL can be had here."""

    code = "testing.postgres_missing"
    fault = Fault.STOP


postgres_service = DatabaseService(
    server=POSTGRES,
    url_variable=URL_VARIABLE,
    container=Container(
        image="postgres:17",
        image_variable="HEADRACE_TEST_POSTGRES_IMAGE",
        port=5432,
        environment={"POSTGRES_HOST_AUTH_METHOD": "trust"},
        command=["postgres", *(part for name, value in SETTINGS.items() for part in ("-c", f"{name}={value}"))],
        ready="ready to accept connections",
    ),
    missing=PostgresMissing,
).open
