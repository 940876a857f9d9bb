"""headrace egress into OpenSearch and Elasticsearch."""

from headrace_opensearch.connector import OpenSearchConnector
from headrace_opensearch.options import OpenSearchOptions

__all__ = ["OpenSearchConnector", "OpenSearchOptions"]
