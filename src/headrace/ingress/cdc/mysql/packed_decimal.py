"""Decimals as MySQL packs them: in rows of the binary log, and in its binary JSON."""

from __future__ import annotations

from collections.abc import Callable

_DIGITS_BYTES = (0, 1, 1, 2, 2, 3, 3, 4, 4, 4)


def decimal(precision: int, scale: int) -> Callable[[bytes, int], tuple[bytes, int]]:
    """Groups of nine digits in four bytes each, the sign in the first bit, all bits turned where it is negative."""
    whole, whole_rest = divmod(precision - scale, 9)
    parts, parts_rest = divmod(scale, 9)
    widths = [(whole_rest, _DIGITS_BYTES[whole_rest]), *[(9, 4)] * whole, *[(9, 4)] * parts]
    widths.append((parts_rest, _DIGITS_BYTES[parts_rest]))
    size = sum(width for _, width in widths)

    def read(data: bytes, at: int) -> tuple[bytes, int]:
        is_negative = not data[at] & 0x80
        value = bytearray(data[at : at + size])
        value[0] ^= 0x80
        if is_negative:
            value = bytearray(byte ^ 0xFF for byte in value)
        place, digits = 0, ""
        for count, width in widths:
            if count:
                digits += f"{int.from_bytes(value[place : place + width], 'big'):0{count}d}"
                place += width
        before = digits[: precision - scale].lstrip("0") or "0"
        text = f"{before}.{digits[precision - scale :]}" if scale else before
        return (f"-{text}" if is_negative and text.strip("0.") else text).encode(), at + size

    return read
