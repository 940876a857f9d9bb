"""The error for a column type that Avro cannot hold.

Owns `TypeUnsupported`, which the Arrow and the Polars mapping both raise.
"""

from __future__ import annotations

from headrace.errors import HeadraceError


class TypeUnsupported(HeadraceError):
    """No Avro type holds this column type without changing its values."""

    code = "contracts.type_unsupported"

    def __init__(self, path: str, dtype: str) -> None:
        self.path, self.dtype = path, dtype
        super().__init__(f"{path}: no Avro type holds {dtype}", cure="cast the column to a type that Avro has")
