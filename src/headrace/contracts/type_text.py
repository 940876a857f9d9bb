"""Types of a contract's fields as people write them: `string?`, `decimal(12,2)`, `array<timestamp-millis>`.

Owns the grammar: `name`, then `(numbers)`, then `<inner type>`, then `?` for nullable.

- The grammar knows no types; `field_forms` gives the names their meaning.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

DEPTH_MAX = 32
"""Types inside types in one text."""

_TOKEN = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_.\-]*|\d+|[<>(),?])", re.ASCII)


class TypeTextInvalid(ValueError):
    """A text outside the grammar."""


@dataclass(frozen=True, slots=True)
class TypeText:
    """A type as written."""

    name: str
    numbers: tuple[int, ...] = ()
    inner: TypeText | None = None
    nullable: bool = False


def parse_type_text(text: str) -> TypeText:
    """Raises `TypeTextInvalid` with the reason in words."""
    reader = _Reader(_tokens(text))
    found = reader.type(0)
    if reader.peek():
        raise TypeTextInvalid(f"{reader.peek()!r} is too much")
    return found


def _tokens(text: str) -> list[str]:
    tokens, position = [], 0
    text = text.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if not match:
            raise TypeTextInvalid(f"{text[position:].strip()[:20]!r} is no part of a type")
        tokens.append(match[1])
        position = match.end()
    return tokens


class _Reader:
    def __init__(self, tokens: list[str]) -> None:
        self._tokens, self._position = tokens, 0

    def peek(self) -> str:
        return self._tokens[self._position] if self._position < len(self._tokens) else ""

    def type(self, depth: int) -> TypeText:
        if depth > DEPTH_MAX:
            raise TypeTextInvalid("nested too deeply")
        name = self._next()
        if not (name[:1].isalpha() or name[:1] == "_"):
            raise TypeTextInvalid(
                f"{name!r} stands where a type's name belongs" if name else "a type's name is missing"
            )
        numbers = self._numbers() if self._accept("(") else ()
        inner = self._inner(depth) if self._accept("<") else None
        return TypeText(name, numbers, inner, self._accept("?"))

    def _numbers(self) -> tuple[int, ...]:
        found = []
        while True:
            number = self._next()
            if not number.isdigit() or len(number) > 9:
                raise TypeTextInvalid(f"{number!r} stands where a number belongs")
            found.append(int(number))
            if not self._accept(","):
                break
        self._expect(")")
        return tuple(found)

    def _inner(self, depth: int) -> TypeText:
        found = self.type(depth + 1)
        if self.peek() == ",":
            raise TypeTextInvalid("one type belongs between < and > (the keys of a map are always strings)")
        self._expect(">")
        return found

    def _next(self) -> str:
        token = self.peek()
        self._position += 1
        return token

    def _accept(self, token: str) -> bool:
        if self.peek() != token:
            return False
        self._position += 1
        return True

    def _expect(self, token: str) -> None:
        if not self._accept(token):
            raise TypeTextInvalid(f"{token!r} is missing")
