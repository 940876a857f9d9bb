"""The data file of one flush.

Owns the file until a commit holds it.

- pyiceberg's `append` is not used: it projects rows so that a null list (or map) of records becomes an empty one. Rows
  are written here as they are, with pyiceberg's own writer and statistics.
- The file is written once for all tries of its commit; where no commit holds it for sure, it is removed.
"""

from __future__ import annotations

import uuid

import pyarrow as pa
from pyiceberg.io.pyarrow import ParquetFormatModel, schema_to_pyarrow
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.table import Table
from pyiceberg.typedef import Record


def write_data_file(table: Table, rows: pa.Table) -> DataFile | None:
    """A file of the table's columns; those that `rows` has not are null. None without rows."""
    if not rows.num_rows:
        return None
    schema, properties = table.schema(), table.metadata.properties
    columns = schema_to_pyarrow(schema)
    arrays = [
        rows.column(each.name).cast(each.type) if each.name in rows.column_names else pa.nulls(rows.num_rows, each.type)
        for each in columns
    ]
    place = table.location_provider().new_data_location(f"{uuid.uuid4()}.parquet")
    output = table.io.new_output(place)
    writer = ParquetFormatModel().create_writer(output, schema, properties)
    with writer:
        writer.write(pa.Table.from_arrays(arrays, schema=columns))
    return DataFile.from_args(
        content=DataFileContent.DATA,
        file_path=place,
        file_format=FileFormat.PARQUET,
        partition=Record(),
        file_size_in_bytes=len(output),
        sort_order_id=None,
        spec_id=table.metadata.default_spec_id,
        equality_ids=None,
        key_metadata=None,
        **writer.result().to_serialized_dict(),
    )
