"""The rows of `python -m bench egress`. Imports nothing, so that a peer in its own virtualenv makes the same ones."""

BATCH = 10_000
"""Rows of one flush, of each system."""


def rows(count: int, keys: int) -> list[dict[str, object]]:
    """`count` rows; each key comes again after `keys` rows."""
    return [
        {
            "id": number % keys,
            "customer": f"customer {number % 997}",
            "amount": number * 0.5,
            "note": "a text of about thirty letters",
        }
        for number in range(count)
    ]
