"""Where tests find OpenSearch; the order is `database_service`'s.

`HEADRACE_TEST_OPENSEARCH=http://...` names a server in which the tests may make and remove indexes.
"""

from __future__ import annotations

from headrace.errors import Fault, HeadraceError
from headrace.testing.database_service import Container, DatabaseService
from headrace.testing.opensearch import OPENSEARCH, OPENSEARCH_JARS


class OpenSearchMissing(HeadraceError):
    """No OpenSearch can be had here."""

    code = "testing.opensearch_missing"
    fault = Fault.STOP


opensearch_service = DatabaseService(
    server=OPENSEARCH,
    url_variable=OPENSEARCH_JARS.address_variable,
    container=Container(
        image=f"opensearchproject/opensearch:{OPENSEARCH_JARS.version()}",
        image_variable="HEADRACE_TEST_OPENSEARCH_IMAGE",
        port=9200,
        environment={
            "discovery.type": "single-node",
            "DISABLE_SECURITY_PLUGIN": "true",
            "DISABLE_INSTALL_DEMO_CONFIG": "true",
            "OPENSEARCH_JAVA_OPTS": "-Xms512m -Xmx512m",
        },
        command=["opensearch"],
        ready=r"o\.o\.n\.Node[^\n]*\] started",
        starts=1,
    ),
    missing=OpenSearchMissing,
).open
