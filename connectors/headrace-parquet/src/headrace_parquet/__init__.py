"""headrace egress into Parquet files."""

from headrace_parquet.connector import ParquetConnector, ParquetOptions

__all__ = ["ParquetConnector", "ParquetOptions"]
