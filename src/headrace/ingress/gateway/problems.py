"""Errors as HTTP answers.

Owns the form of a refused request (`application/problem+json`, RFC 9457) and the status of each error.

- What goes wrong behind the gateway is told by its code alone: addresses and reasons are for the log.
"""

from __future__ import annotations

import json
from http import HTTPStatus

from aiohttp import web

from headrace.errors import Fault, HeadraceError
from headrace.ingress.gateway.errors import RETRY_AFTER_S, Refusal, RequestSlow, RequestTooLarge
from headrace.ingress.violations import NotPublishable, UnknownContract

PROBLEM_TYPE = "application/problem+json"
REALM = 'Bearer realm="headrace"'
CLOSING = (RequestTooLarge.status, RequestSlow.status)
"""After these the rest of the body is not read."""


def status_of(error: HeadraceError) -> int:
    """The HTTP status of an error."""
    if isinstance(error, Refusal):
        return error.status
    if isinstance(error, UnknownContract):
        return 404
    return 403 if isinstance(error, NotPublishable) else 503


def problem_response(error: HeadraceError | web.HTTPException) -> web.Response:
    """The answer to a request that is refused whole."""
    if isinstance(error, web.HTTPException):
        allow = error.headers.get("Allow")
        return _response(error.status, "ingress.no_such_address", error.reason, {"Allow": allow} if allow else {})
    status = status_of(error)
    headers: dict[str, str] = {}
    if status == 401:
        headers["WWW-Authenticate"] = REALM if error.message == "no token" else f'{REALM}, error="invalid_token"'
    elif status == 403:
        headers["WWW-Authenticate"] = f'{REALM}, error="insufficient_scope"'
    retry_after_s = _retry_after_s(error)
    if retry_after_s is not None:
        headers["Retry-After"] = str(retry_after_s)
    is_ours = isinstance(error, Refusal | UnknownContract | NotPublishable)
    detail = f"{error.message}; {error.cure}" if is_ours and error.cure else error.message
    response = _response(status, error.code, detail if is_ours else "the log cannot take the records now", headers)
    if status in CLOSING:
        response.force_close()
    return response


def _retry_after_s(error: HeadraceError) -> int | None:
    if isinstance(error, Refusal):
        return error.retry_after_s
    return RETRY_AFTER_S if status_of(error) == 503 and error.fault is Fault.RETRY else None


def _response(status: int, code: str, detail: str, headers: dict[str, str]) -> web.Response:
    body = {"status": status, "title": HTTPStatus(status).phrase, "code": code, "detail": detail}
    return web.Response(status=status, text=json.dumps(body), content_type=PROBLEM_TYPE, headers=headers)
