"""Tables over HTTP: `/tables`, `/tables/<name>`, `/tables/<name>/<key>`.

Owns addresses, status codes and JSON; `headrace.workspace.tables` knows the answers.

- `FORWARDED` holds the partitions that another process asks about: such a question is never passed on.
- 400: the question cannot be read. 404: no such table, or a key without a row (`"found": false`). 503: who holds the
  rows cannot answer now; `Retry-After` says when to ask again.
- Names and keys are percent-encoded UTF-8; a key may contain slashes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

import aiohttp
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Histogram

from headrace.errors import Fault, HeadraceError
from headrace.workspace.table_directory import Listed
from headrace.workspace.table_errors import QuestionInvalid, TableAway, TableNotHeld, TableUnknown
from headrace.workspace.table_keys import key_of_text, key_of_values, window_start_ms
from headrace.workspace.table_owners import Owner
from headrace.workspace.tables import ANSWER_TIMEOUT_S, LIMIT_DEFAULT, LIMIT_MAX, Asked, Piece, Tables

FORWARDED = "Headrace-Partitions"
RETRY_AFTER_S = 1
PREFIX = "/tables"
LIMIT, WINDOW_START = "limit", "window_start"
"""Parameters that are no key columns; a key column of such a name is given as JSON in the path."""


class TablesHttp:
    """Handlers of one process. `close` is called on the loop that serves."""

    def __init__(self, tables: Tables, registry: CollectorRegistry | None = None) -> None:
        self._tables = tables
        self._session: aiohttp.ClientSession | None = None
        self._answers = Counter("headrace_table_answers", "Answers to questions.", ["status"], registry=registry)
        self._seconds = Histogram("headrace_table_answer_seconds", "How long an answer took.", registry=registry)

    def add_to(self, app: web.Application) -> None:
        """Serve these addresses too."""
        app.router.add_get(PREFIX, self._list)
        app.router.add_get(PREFIX + "/{rest:.+}", self._ask)
        app.on_cleanup.append(self._close)

    async def _close(self, _: web.Application) -> None:
        if self._session is not None:
            await self._session.close()

    async def _list(self, _: web.Request) -> web.Response:
        try:
            tables = [await self._listing(listed) for listed in self._tables.directory.all()]
        except HeadraceError as error:
            return error_response(error)
        return web.json_response({"tables": tables})

    async def _listing(self, listed: Listed) -> dict[str, Any]:
        table = listed.table
        owners = self._tables.owners.of(table)
        partitions = await self._tables.partitions(listed)
        return {
            "name": listed.name,
            "topic": table.topic,
            "pipeline": table.pipeline,
            "step": table.step,
            "key": list(table.key),
            "window": table.window_start,
            "partitions": len(partitions),
            "broadcast": table.holder.is_broadcast,
            "owners": {str(n): owners[n].instance if n in owners else None for n in partitions},
        }

    async def _ask(self, request: web.Request) -> web.Response:
        with self._seconds.time():
            response = await self._response(request)
        self._answers.labels(str(response.status)).inc()
        return response

    async def _response(self, request: web.Request) -> web.Response:
        try:
            asked = self._asked(request)
            forwarded = request.headers.get(FORWARDED)
            if forwarded is not None:
                piece = await self._tables.answer_here(asked, _partitions(forwarded))
                return web.json_response(piece.as_json())
            piece = await self._tables.answer(asked, _Proxy(self, request))
        except HeadraceError as error:
            return error_response(error)
        return self._answered(asked, piece)

    def _asked(self, request: web.Request) -> Asked:
        name, key_text = _path_of(request.rel_url.raw_path)
        listed = self._tables.directory.find(name)
        given = _parameters(request)
        limit, start = given.pop(LIMIT, None), given.pop(WINDOW_START, None)
        if start is not None and not listed.is_windowed:
            raise QuestionInvalid(f"table {name!r} has no windows", cure=f"leave {WINDOW_START} out")
        key = None
        if key_text is not None:
            if given:
                raise QuestionInvalid(f"a key in the path, and {', '.join(given)} beside it", cure="give one of both")
            key = key_of_text(listed.key, key_text)
        elif given:
            key = key_of_values(listed.key, given)
        start_ms = None if start is None else window_start_ms(start)
        return Asked(listed, key, _limit(limit, LIMIT_MAX if key is not None else LIMIT_DEFAULT), start_ms)

    def _answered(self, asked: Asked, piece: Piece) -> web.Response:
        body: dict[str, Any] = {"table": asked.listed.name, **piece.as_json()}
        if asked.key is None:
            return web.json_response(body)
        body = {"found": bool(piece.rows), **body}
        return web.json_response(body, status=200 if piece.rows else 404)

    async def session(self) -> aiohttp.ClientSession:
        """One for the life of the process."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_TIMEOUT_S))
        return self._session


class _Proxy:
    """The way of one request to other processes."""

    def __init__(self, http: TablesHttp, request: web.Request) -> None:
        self._http, self._request = http, request

    async def ask(self, owner: Owner, partitions: Sequence[int]) -> Piece:
        try:
            place = urlsplit(owner.address)
            host, port = place.hostname, place.port
        except ValueError:
            host = port = None
        if not host or not port:
            raise TableAway(
                f"{owner.instance} holds the rows and serves no HTTP", cure="give every worker a port: [http] port"
            )
        # The rest as it came: to quote a key again could make another one of it.
        url = self._request.url.with_scheme("http").with_host(host).with_port(port)
        headers = {FORWARDED: ",".join(map(str, partitions))}
        session = await self._http.session()
        try:
            async with session.get(url, headers=headers, allow_redirects=False) as reply:
                body = await reply.json()
                if reply.status == 200:
                    return Piece.from_json(body)
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError) as error:
            why = str(error) or type(error).__name__
            raise TableAway(f"{owner.instance} at {owner.address} does not answer: {why}", cure="ask again") from error
        message = body.get("error", {}).get("message", "") if isinstance(body, dict) else ""
        raise TableAway(f"{owner.instance} cannot answer now: {message or reply.status}", cure="ask again in a moment")


def _path_of(raw_path: str) -> tuple[str, str | None]:
    """Name and key of an address."""
    name, slash, key = raw_path.removeprefix(PREFIX + "/").partition("/")
    try:
        return unquote(name, errors="strict"), unquote(key, errors="strict") if slash else None
    except UnicodeDecodeError as error:
        raise QuestionInvalid("the address is not UTF-8", cure="percent-encode the key as UTF-8") from error


def _parameters(request: web.Request) -> dict[str, str]:
    given: dict[str, str] = {}
    for name, value in request.rel_url.query.items():
        if name in given:
            raise QuestionInvalid(f"parameter {name} is given twice", cure="give it once")
        given[name] = value
    return given


def _limit(text: str | None, default: int) -> int:
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= LIMIT_MAX:
        raise QuestionInvalid(f"limit: {text!r} is no number from 1 to {LIMIT_MAX}", cure="ask for fewer rows")
    return int(text)


def _partitions(text: str) -> list[int]:
    numbers = text.split(",")
    if not all(each.isascii() and each.isdigit() for each in numbers):
        raise QuestionInvalid(f"{FORWARDED}: {text!r} is no list of partitions", cure="leave the header out")
    return [int(each) for each in numbers]


def error_response(error: HeadraceError) -> web.Response:
    """An error as JSON."""
    body = {"error": {"code": error.code, "message": error.message, "cure": error.cure}}
    status = _status(error)
    headers: Mapping[str, str] = {"Retry-After": str(RETRY_AFTER_S)} if status == 503 else {}
    return web.Response(
        text=json.dumps(body), status=status, headers=headers, content_type="application/json", charset="utf-8"
    )


def _status(error: HeadraceError) -> int:
    if isinstance(error, TableUnknown | TableNotHeld):
        return 404
    if isinstance(error, QuestionInvalid):
        return 400
    return 503 if error.fault is Fault.RETRY else 500
