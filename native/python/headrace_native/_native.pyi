"""Signatures of the compiled module."""

API_VERSION: int

class Buffer:
    """Memory of the package, read-only. `pa.py_buffer` and `np.frombuffer` take it without a copy."""

    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
