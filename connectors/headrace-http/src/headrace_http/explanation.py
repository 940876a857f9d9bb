"""A request as a person may see it.

Owns its text: the address up to its host, headers as the file has them, and the beginning of the body. No variable is
read, so nothing that one holds is shown.
"""

from __future__ import annotations

from headrace.egress.explained import left_out, shown
from headrace_http.bodies import Bodies
from headrace_http.options import HttpOptions
from headrace_http.sender import own_headers, shown_address


def explanation(bodies: Bodies, options: HttpOptions) -> list[str]:
    """The first request of these rows, which are some, and how many more there are."""
    requests = (each for lane in bodies.lanes() for each in bodies.requests(lane))
    first = next(requests)
    headers = {**options.headers, **own_headers(options), "Idempotency-Key": first.id}
    if options.secrets:
        signature = f"made with {' and '.join(options.secrets)}"
        headers |= {"webhook-id": first.id, "webhook-timestamp": "when it is sent", "webhook-signature": signature}
    address = options.url if options.url.startswith("$") else shown_address(options.url)
    return [
        shown(f"POST {address}"),
        *(shown(f"{name}: {value}") for name, value in headers.items()),
        shown(first.body.rstrip()),
        *left_out(sum(1 for _ in requests), "requests"),
    ]
