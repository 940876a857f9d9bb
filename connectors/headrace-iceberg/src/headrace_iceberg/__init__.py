"""headrace egress into Iceberg tables."""

from headrace_iceberg.connector import IcebergConnector
from headrace_iceberg.options import IcebergOptions

__all__ = ["IcebergConnector", "IcebergOptions"]
