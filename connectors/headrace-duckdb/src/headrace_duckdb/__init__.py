"""headrace egress into DuckDB."""

from headrace_duckdb.connector import DuckDbConnector, DuckDbOptions

__all__ = ["DuckDbConnector", "DuckDbOptions"]
