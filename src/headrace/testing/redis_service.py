"""Where tests find Redis; the order is `database_service`'s.

`HEADRACE_TEST_REDIS=redis://...` names a server whose data the tests may change.
"""

from __future__ import annotations

from headrace.errors import Fault, HeadraceError
from headrace.testing.database_service import Container, DatabaseService
from headrace.testing.redis import REDIS

URL_VARIABLE = "HEADRACE_TEST_REDIS"


class RedisMissing(HeadraceError):
    """No Redis can be had here."""

    code = "testing.redis_missing"
    fault = Fault.STOP


redis_service = DatabaseService(
    server=REDIS,
    url_variable=URL_VARIABLE,
    container=Container(
        image="redis:7.2",
        image_variable="HEADRACE_TEST_REDIS_IMAGE",
        port=6379,
        environment={},
        command=["redis-server", "--save", "", "--appendonly", "no"],
        ready="Ready to accept connections",
        starts=1,
    ),
    missing=RedisMissing,
).open
