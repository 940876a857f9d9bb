"""headrace egress to HTTP endpoints."""

from headrace_http.connector import HttpConnector
from headrace_http.options import HttpOptions

__all__ = ["HttpConnector", "HttpOptions"]
