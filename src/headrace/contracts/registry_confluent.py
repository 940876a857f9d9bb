"""A registry over the REST interface of Confluent's schema registry, and of those compatible with it.

Owns the translation between `Registry` and that interface.

- Ids, versions and verdicts are the server's; nothing is decided here.
- What can never change (a schema by its id or GUID) is asked once.
- A schema that refers to others comes back whole: the referenced types are written into it.
"""

from __future__ import annotations

import re
import ssl
import uuid
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from headrace.contracts.avro import AvroSchema, SchemaInvalid
from headrace.contracts.avro_parse import load_json
from headrace.contracts.registry import (
    CompatibilityMode,
    RegisteredSchema,
    RegistryError,
    SchemaIncompatible,
    UnknownSchemaId,
)
from headrace.contracts.registry_http import Credentials, Endpoint, RegistryHttp, Reply
from headrace.contracts.registry_store import EVERY_SUBJECT, schema_guid

TIMEOUT_S = 10.0
ATTEMPTS_MAX = 5
"""With backoff and jitter about 1.5 s in all, beside what the attempts themselves take."""

REFERENCES_MAX = 200
"""Schemas that one schema may refer to, directly or not."""

SUBJECT_NOT_FOUND = 40401
SUBJECT_MODE_NOT_FOUND = 40408

_REASON = re.compile(r"description:'(.*?)', additionalInfo:")
"""A reason inside the text in which the server lists them."""


class SchemaRejected(RegistryError):
    """The registry does not accept a schema, for another reason than compatibility."""

    code = "registry.schema_rejected"


class SchemaNotAvro(RegistryError):
    """The registry holds a Protobuf or JSON schema where an Avro one is needed."""

    code = "registry.schema_not_avro"


class ConfluentRegistry:
    """A `Registry` behind a URL. Several URLs of one registry may be given, separated by commas."""

    def __init__(
        self,
        url: str,
        *,
        auth: tuple[str, str] | None = None,
        timeout_s: float = TIMEOUT_S,
        attempts_max: int = ATTEMPTS_MAX,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        credentials = Credentials(*auth) if auth else None
        self._http = RegistryHttp(url, credentials=credentials, timeout_s=timeout_s, attempts_max=attempts_max, tls=tls)
        self._by_id: dict[int, AvroSchema] = {}
        self._by_guid: dict[uuid.UUID, AvroSchema] = {}

    @property
    def endpoints(self) -> Sequence[Endpoint]:
        """Where the registry is; safe to show."""
        return self._http.endpoints

    def register(self, subject: str, schema: AvroSchema) -> RegisteredSchema:
        path = f"/subjects/{_quoted(subject)}"
        body = {"schema": schema.text, "schemaType": "AVRO"}
        reply = self._http.request("POST", f"{path}/versions", body)
        if reply.status == 409:
            raise _incompatible(subject, reply)
        found = self._expect(reply, subject)
        if not isinstance(found, dict) or "version" not in found:  # Older servers answer with the id alone.
            found = self._expect(self._http.request("POST", path, body), subject)
        return self._registered(subject, found, schema)

    def by_id(self, schema_id: int) -> AvroSchema:
        known = self._by_id.get(schema_id)
        if known is None:
            known = self._fetch(f"/schemas/ids/{schema_id}", f"id {schema_id}")
            self._by_id[schema_id] = known
        return known

    def by_guid(self, guid: uuid.UUID) -> AvroSchema:
        known = self._by_guid.get(guid)
        if known is None:
            known = self._fetch(f"/schemas/guids/{guid}", f"GUID {guid}")
            self._by_guid[guid] = known
        return known

    def latest(self, subject: str) -> RegisteredSchema | None:
        return self._version(subject, "latest")

    def versions(self, subject: str) -> Sequence[RegisteredSchema]:
        reply = self._http.request("GET", f"/subjects/{_quoted(subject)}/versions")
        if reply.status == 404:
            return ()
        found = (self._version(subject, number) for number in self._expect(reply, subject))
        return tuple(each for each in found if each is not None)

    def subjects(self) -> Sequence[str]:
        return tuple(sorted(self._expect(self._http.request("GET", "/subjects"), "")))

    def compatibility(self, subject: str) -> CompatibilityMode:
        reply = self._http.request("GET", f"{_config(subject)}?defaultToGlobal=true")
        if reply.error_code in (SUBJECT_NOT_FOUND, SUBJECT_MODE_NOT_FOUND):
            reply = self._http.request("GET", "/config")  # A server too old for `defaultToGlobal`.
        body = self._expect(reply, subject)
        try:
            return CompatibilityMode(str(body["compatibilityLevel"]).lower())
        except (KeyError, TypeError, ValueError):
            raise _unexpected(subject, body) from None

    def set_compatibility(self, subject: str, mode: CompatibilityMode) -> None:
        self._expect(self._http.request("PUT", _config(subject), {"compatibility": mode.value.upper()}), subject)

    def close(self) -> None:
        """Nothing to free: no connection outlives its request."""

    def _version(self, subject: str, version: int | str) -> RegisteredSchema | None:
        reply = self._http.request("GET", f"/subjects/{_quoted(subject)}/versions/{version}")
        return None if reply.status == 404 else self._registered(subject, self._expect(reply, subject))

    def _registered(self, subject: str, body: Any, schema: AvroSchema | None = None) -> RegisteredSchema:
        try:
            schema_id, version = int(body["id"]), int(body["version"])
            stored = self._by_id.get(schema_id) or schema or self._schema(body)
            guid = uuid.UUID(body["guid"]) if body.get("guid") else schema_guid(stored)
        except (KeyError, TypeError, ValueError):
            raise _unexpected(subject, body) from None
        self._by_id.setdefault(schema_id, stored)
        self._by_guid.setdefault(guid, stored)
        return RegisteredSchema(subject, version, schema_id, guid, stored)

    def _fetch(self, path: str, name: str) -> AvroSchema:
        reply = self._http.request("GET", path)
        if reply.status == 404:
            raise UnknownSchemaId(f"no schema has the {name} in {self._http.endpoints[0]}")
        try:
            return self._schema(self._expect(reply, ""))
        except (SchemaInvalid, SchemaNotAvro) as error:
            raise UnknownSchemaId(f"the schema with the {name} cannot be used: {error}") from error

    def _schema(self, body: Mapping[str, Any]) -> AvroSchema:
        if not isinstance(body, dict) or not isinstance(body.get("schema"), str):
            raise _unexpected("", body)
        if body.get("schemaType", "AVRO") != "AVRO":
            raise SchemaNotAvro(f"a {body['schemaType']} schema is not Avro", cure="use a subject with Avro schemas")
        references = body.get("references")
        if not references:
            return AvroSchema.parse(body["schema"])
        texts: dict[tuple[str, int], str] = {}
        self._collect(references, texts)
        return with_references(body["schema"], list(texts.values()))

    def _collect(self, references: Sequence[Mapping[str, Any]], texts: dict[tuple[str, int], str]) -> None:
        """Gather the referenced schemas, each after those that it refers to itself."""
        for reference in references:
            subject, version = str(reference["subject"]), int(reference["version"])
            if (subject, version) in texts:
                continue
            if len(texts) >= REFERENCES_MAX:
                raise RegistryError(f"subject {subject!r}: more than {REFERENCES_MAX} referenced schemas")
            path = f"/subjects/{_quoted(subject)}/versions/{version}"
            body = self._expect(self._http.request("GET", path), subject)
            self._collect(body.get("references") or (), texts)
            texts[(subject, version)] = body["schema"]

    def _expect(self, reply: Reply, subject: str) -> Any:
        """The body of a good reply."""
        if reply.status == 200:
            return reply.body
        about = f"subject {subject!r}: " if subject else ""
        message = f"{about}schema registry {self._http.endpoints[0]} answered {reply.error_code}: {reply.message}"
        if reply.status == 422:
            raise SchemaRejected(message)
        raise RegistryError(message)


def with_references(schema: str, referenced: Sequence[str]) -> AvroSchema:
    """The schema with the types of the `referenced` ones, in an order in which each knows its own, written into it."""
    fields = [{"name": f"f{index}", "type": load_json(text, None)} for index, text in enumerate([*referenced, schema])]
    whole = AvroSchema.parse({"type": "record", "name": "References", "fields": fields})
    return AvroSchema.parse(whole.fields[-1].type)


def _incompatible(subject: str, reply: Reply) -> SchemaIncompatible:
    reasons = _REASON.findall(reply.message) or [reply.message]
    return SchemaIncompatible(
        f"subject {subject!r}: the registry refuses the schema as incompatible: {'; '.join(reasons)}", reasons=reasons
    )


def _unexpected(subject: str, body: Any) -> RegistryError:
    about = f"subject {subject!r}: " if subject else ""
    members = sorted(body) if isinstance(body, dict) else type(body).__name__
    return RegistryError(
        f"{about}the schema registry answered with {members}, which is not as its interface says",
        cure="check that the URL is that of a schema registry",
    )


def _config(subject: str) -> str:
    return "/config" if subject == EVERY_SUBJECT else f"/config/{_quoted(subject)}"


def _quoted(subject: str) -> str:
    return quote(subject, safe="")
