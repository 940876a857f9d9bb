"""headrace egress into Parquet files, on a disk or in S3."""

from headrace_parquet.connector import ParquetConnector
from headrace_parquet.options import ParquetOptions

__all__ = ["ParquetConnector", "ParquetOptions"]
