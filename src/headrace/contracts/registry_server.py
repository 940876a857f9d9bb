"""A registry served over HTTP, as a subset of Confluent's REST interface.

Owns that interface: paths, bodies and error codes. Serves any `Registry`; holds no schema itself.

- Every refusal has the body `{"error_code", "message"}` with Confluent's codes, so that existing clients understand it.
- The registry may block, so each of its calls runs on a thread beside the event loop.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from aiohttp import web

from headrace.contracts.avro import AvroSchema, SchemaInvalid
from headrace.contracts.compatibility import check
from headrace.contracts.registry import (
    CompatibilityMode,
    RegisteredSchema,
    Registry,
    RegistryUnavailable,
    SchemaIncompatible,
    UnknownSchemaId,
)
from headrace.contracts.registry_http import CONTENT_TYPE
from headrace.contracts.registry_store import EVERY_SUBJECT
from headrace.errors import HeadraceError

REQUEST_BYTES_MAX = 4 * 1024 * 1024
"""Largest request; a schema above it is a mistake."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _Refusal(Exception):
    """An answer with an error body."""

    def __init__(self, status: int, code: int, message: str) -> None:
        self.status, self.code, self.message = status, code, message
        super().__init__(message)


def registry_app(registry: Registry) -> web.Application:
    """The application to run with aiohttp. It does not close the registry."""
    server = _Server(registry)
    app = web.Application(middlewares=[_refusals], client_max_size=REQUEST_BYTES_MAX)
    app.add_routes(
        [
            web.get("/", server.root),
            web.get("/schemas/types", server.types),
            web.get("/schemas/ids/{id}", server.by_id),
            web.get("/schemas/ids/{id}/schema", server.text_by_id),
            web.get("/schemas/guids/{guid}", server.by_guid),
            web.get("/subjects", server.subjects),
            web.post("/subjects/{subject}", server.lookup),
            web.get("/subjects/{subject}/versions", server.versions),
            web.post("/subjects/{subject}/versions", server.register),
            web.get("/subjects/{subject}/versions/{version}", server.version),
            web.get("/subjects/{subject}/versions/{version}/schema", server.version_text),
            web.post("/compatibility/subjects/{subject}/versions", server.compatible),
            web.post("/compatibility/subjects/{subject}/versions/{version}", server.compatible),
            web.get("/config", server.mode),
            web.put("/config", server.set_mode),
            web.get("/config/{subject}", server.mode),
            web.put("/config/{subject}", server.set_mode),
        ]
    )
    return app


class _Server:
    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def root(self, request: web.Request) -> web.Response:
        return _json({})

    async def types(self, request: web.Request) -> web.Response:
        return _json(["AVRO"])

    async def by_id(self, request: web.Request) -> web.Response:
        return _json({"schema": (await self._schema_by_id(request)).text})

    async def text_by_id(self, request: web.Request) -> web.Response:
        return _json_text((await self._schema_by_id(request)).text)

    async def by_guid(self, request: web.Request) -> web.Response:
        try:
            guid = uuid.UUID(request.match_info["guid"])
        except ValueError:
            raise _Refusal(404, 40403, "Schema not found") from None
        schema = await asyncio.to_thread(self._registry.by_guid, guid)
        return _json({"schema": schema.text, "guid": str(guid)})

    async def subjects(self, request: web.Request) -> web.Response:
        prefix = request.query.get("subjectPrefix", "")
        found = await asyncio.to_thread(self._registry.subjects)
        return _json([each for each in found if each.startswith(prefix)])

    async def lookup(self, request: web.Request) -> web.Response:
        schema = await _schema_of(request)
        for each in await self._versions(request):
            if each.schema == schema:
                return _json(_described(each))
        raise _Refusal(404, 40403, "Schema not found")

    async def register(self, request: web.Request) -> web.Response:
        schema = await _schema_of(request)
        found = await asyncio.to_thread(self._registry.register, request.match_info["subject"], schema)
        return _json(_described(found))

    async def versions(self, request: web.Request) -> web.Response:
        return _json([each.version for each in await self._versions(request)])

    async def version(self, request: web.Request) -> web.Response:
        return _json(_described(await self._version(request)))

    async def version_text(self, request: web.Request) -> web.Response:
        return _json_text((await self._version(request)).schema.text)

    async def compatible(self, request: web.Request) -> web.Response:
        """One version is compared alone, whatever the mode says of older ones; without a version the mode decides."""
        schema = await _schema_of(request)
        subject = request.match_info["subject"]
        versions = await asyncio.to_thread(self._registry.versions, subject)
        mode = await asyncio.to_thread(self._registry.compatibility, subject)
        wanted = request.match_info.get("version")
        if wanted is not None and not (wanted == "latest" and not versions):
            versions = [_numbered(subject, versions, wanted)]
        found = check(schema, [each.schema for each in versions], mode)
        body: dict[str, Any] = {"is_compatible": not found}
        if request.query.get("verbose", "").lower() == "true":
            body["messages"] = [each.sentence(f"version {versions[each.against].version}") for each in found]
        return _json(body)

    async def mode(self, request: web.Request) -> web.Response:
        mode = await asyncio.to_thread(self._registry.compatibility, _configured(request))
        return _json({"compatibilityLevel": mode.value.upper()})

    async def set_mode(self, request: web.Request) -> web.Response:
        body = await _object_of(request)
        try:
            mode = CompatibilityMode(body["compatibility"].lower())
        except (KeyError, AttributeError, ValueError):
            levels = ", ".join(each.value.upper() for each in CompatibilityMode)
            raise _Refusal(422, 42203, f"Invalid compatibility level. Valid values are {levels}") from None
        await asyncio.to_thread(self._registry.set_compatibility, _configured(request), mode)
        return _json({"compatibility": mode.value.upper()})

    async def _schema_by_id(self, request: web.Request) -> AvroSchema:
        text = request.match_info["id"]
        if not text.isascii() or not text.isdigit():
            raise _Refusal(404, 404, "HTTP 404 Not Found")
        return await asyncio.to_thread(self._registry.by_id, int(text))

    async def _versions(self, request: web.Request) -> Sequence[RegisteredSchema]:
        subject = request.match_info["subject"]
        found = await asyncio.to_thread(self._registry.versions, subject)
        if not found:
            raise _Refusal(404, 40401, f"Subject '{subject}' not found.")
        return found

    async def _version(self, request: web.Request) -> RegisteredSchema:
        versions = await self._versions(request)
        return _numbered(request.match_info["subject"], versions, request.match_info["version"])


@web.middleware
async def _refusals(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Errors as Confluent's error bodies."""
    try:
        return await handler(request)
    except _Refusal as refusal:
        return _error(refusal.status, refusal.code, refusal.message)
    except UnknownSchemaId as error:
        return _error(404, 40403, f"Schema not found: {error.message}")
    except SchemaInvalid as error:
        return _error(422, 42201, f"Invalid schema: {error}")
    except SchemaIncompatible as error:
        return _error(409, 409, _incompatible_text(request.match_info.get("subject", ""), error))
    except RegistryUnavailable as error:
        return _error(503, 50001, str(error))
    except HeadraceError as error:
        return _error(500, 50001, str(error))
    except web.HTTPException as error:
        return _error(error.status, error.status, f"HTTP {error.status} {error.reason}")


def _incompatible_text(subject: str, error: SchemaIncompatible) -> str:
    details = ", ".join(
        f"{{errorType:'INCOMPATIBLE', description:'{reason}', additionalInfo:''}}" for reason in error.reasons
    )
    return (
        f'Schema being registered is incompatible with an earlier schema for subject "{subject}", details: [{details}]'
    )


def _numbered(subject: str, versions: Sequence[RegisteredSchema], wanted: str) -> RegisteredSchema:
    if not versions:
        raise _Refusal(404, 40401, f"Subject '{subject}' not found.")
    if wanted in ("latest", "-1"):
        return versions[-1]
    if not wanted.isascii() or not wanted.isdigit() or not 1 <= int(wanted) < 2**31:
        raise _Refusal(
            422,
            42202,
            f"The specified version '{wanted}' is not a valid version id. "
            'Allowed values are between [1, 2^31-1] and the string "latest"',
        )
    for each in versions:
        if each.version == int(wanted):
            return each
    raise _Refusal(404, 40402, f"Version {wanted} not found.")


async def _object_of(request: web.Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.text())
    except ValueError:
        raise _Refusal(400, 400, "the body is not JSON") from None
    if not isinstance(body, dict):
        raise _Refusal(400, 400, "the body is not a JSON object")
    return body


async def _schema_of(request: web.Request) -> AvroSchema:
    body = await _object_of(request)
    if body.get("schemaType") not in (None, "AVRO"):
        raise _Refusal(422, 42201, f"Invalid schema type {body['schemaType']}: this registry holds Avro schemas")
    if body.get("references"):
        raise _Refusal(422, 42201, "Invalid schema: references are not kept here; write the types into the schema")
    if not isinstance(body.get("schema"), str) or not body["schema"]:
        raise _Refusal(422, 42201, "Empty schema")
    return AvroSchema.parse(body["schema"])


def _configured(request: web.Request) -> str:
    return request.match_info.get("subject", EVERY_SUBJECT)


def _described(each: RegisteredSchema) -> dict[str, Any]:
    return {
        "subject": each.subject,
        "version": each.version,
        "id": each.id,
        "guid": str(each.guid),
        "schemaType": "AVRO",
        "schema": each.schema.text,
    }


def _json(body: Any) -> web.Response:
    return _json_text(json.dumps(body, ensure_ascii=False))


def _json_text(text: str, status: int = 200) -> web.Response:
    return web.Response(text=text, status=status, content_type=CONTENT_TYPE)


def _error(status: int, code: int, message: str) -> web.Response:
    return _json_text(json.dumps({"error_code": code, "message": message}, ensure_ascii=False), status)


__all__ = ["REQUEST_BYTES_MAX", "registry_app"]
