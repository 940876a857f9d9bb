"""headrace egress into PostgreSQL."""

from headrace_postgres.connector import PostgresConnector
from headrace_postgres.options import PostgresOptions

__all__ = ["PostgresConnector", "PostgresOptions"]
