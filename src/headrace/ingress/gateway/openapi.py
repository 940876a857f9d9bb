"""The gateway's OpenAPI document, made from the contracts.

Owns what a client in another language is told: an address for each topic that it may write, its records, every answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from headrace.contracts.contract import Contract
from headrace.ingress.gateway.bodies import JSON_TYPE, NDJSON_TYPE
from headrace.ingress.gateway.config import GatewayConfig
from headrace.ingress.gateway.events import ATTRIBUTE_CHARACTERS_MAX, BATCH_TYPE, EVENT_TYPE
from headrace.ingress.gateway.json_schema import contract_schema, example_row
from headrace.ingress.gateway.problems import PROBLEM_TYPE

Json = dict[str, Any]

PROBLEMS: Mapping[int, str] = {
    400: "The request, or each of its records, cannot be read.",
    401: "No token, or an unknown one.",
    403: "The token may not write this topic.",
    404: "No such topic.",
    408: "The body took too long.",
    409: "The same Idempotency-Key, or event, is being published by another request.",
    413: "More bytes or records than one request may have.",
    415: "A content type or coding that is not read.",
    422: "No record fits the contract, or the Idempotency-Key came before with another request.",
    429: "More than this client may send.",
    500: "A mistake of the gateway's own.",
    503: "The log is away or slow, or too much waits. `ingress.outcome_unknown`: the records may be there.",
}
RETRIED = (409, 429, 503)
WITH_ANSWER = (400, 409, 422)
"""Where every record is refused for the same reason, the answer tells each."""


def openapi_document(config: GatewayConfig, contracts: Sequence[Contract]) -> Json:
    """The document for a client that may write these topics."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"Gateway {config.name}",
            "version": "1",
            "description": config.description
            or "Records into topics, checked by their contracts, each with its answer.",
        },
        "security": [{"token": []}],
        "paths": {f"/topics/{contract.topic}": _path(config, contract) for contract in contracts},
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                "Answer": _ANSWER,
                "Problem": _PROBLEM,
                **{_name(contract): contract_schema(contract) for contract in contracts},
            },
            "parameters": {"IdempotencyKey": _KEY},
            "responses": {f"Problem{status}": _problem(status) for status in PROBLEMS},
        },
    }


def _path(config: GatewayConfig, contract: Contract) -> Json:
    record = {"$ref": f"#/components/schemas/{_name(contract)}"}
    records = {"type": "array", "items": record, "minItems": 1}
    event = _event(record)
    events = {"type": "array", "items": event, "minItems": 1}
    answers = {
        "200": _answered("Every record is durable."),
        "207": _answered("Some records are durable; each of the others says why it is not."),
    }
    problems = {str(status): {"$ref": f"#/components/responses/Problem{status}"} for status in PROBLEMS}
    return {
        "post": {
            "operationId": f"publish.{contract.topic}",
            "summary": f"Publish records to {contract.topic}",
            "description": _description(config, contract),
            "tags": [contract.owner] if contract.owner else [],
            "parameters": [{"$ref": "#/components/parameters/IdempotencyKey"}],
            "requestBody": {
                "required": True,
                "content": {
                    JSON_TYPE: {"schema": {"anyOf": [record, records]}, "example": example_row(contract)},
                    EVENT_TYPE: {"schema": event},
                    BATCH_TYPE: {"schema": events},
                    NDJSON_TYPE: {"schema": {**records, "description": "Each item is one line."}},
                },
            },
            "responses": answers | problems,
        }
    }


def _description(config: GatewayConfig, contract: Contract) -> str:
    said = [
        contract.description,
        f"Up to {config.records_max} records and {config.body_bytes_max} bytes, unpacked; `Content-Encoding: gzip` is"
        " read. CloudEvents in binary mode (`ce-*` headers, a record as body) are read, too.",
        f"Requests with an Idempotency-Key, and events by `source` and `id`, are published once: they are remembered"
        f" for {config.keys_kept_seconds} seconds.",
    ]
    return "\n\n".join(each for each in said if each)


def _name(contract: Contract) -> str:
    return f"record.{contract.topic}"


def _event(record: Json) -> Json:
    text = {"type": "string", "minLength": 1, "maxLength": ATTRIBUTE_CHARACTERS_MAX}
    optional = {"type": ["string", "null"], "maxLength": ATTRIBUTE_CHARACTERS_MAX}
    properties = {
        "specversion": {"const": "1.0"},
        "id": text,
        "source": text,
        "type": text,
        "subject": optional,
        "time": {**optional, "format": "date-time"},
        "dataschema": optional,
        "datacontenttype": {"enum": ["application/json", None]},
        "data": record,
    }
    required = ["specversion", "id", "source", "type", "data"]
    extension = {
        "anyOf": [optional, {"type": "boolean"}, {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1}]
    }
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "propertyNames": {"pattern": "^[a-z0-9]{1,64}$"},
        "maxProperties": 64,
        "additionalProperties": extension,
    }


def _answered(told: str) -> Json:
    return {"description": told, "content": {JSON_TYPE: {"schema": {"$ref": "#/components/schemas/Answer"}}}}


def _problem(status: int) -> Json:
    content: Json = {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    if status in WITH_ANSWER:
        content[JSON_TYPE] = {"schema": {"$ref": "#/components/schemas/Answer"}}
    found: Json = {"description": f"{HTTPStatus(status).phrase}. {PROBLEMS[status]}", "content": content}
    if status in RETRIED:
        found["headers"] = {
            "Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}, "required": False}
        }
    if status in (401, 403):
        found["headers"] = {"WWW-Authenticate": {"schema": {"type": "string"}, "required": True}}
    return found


_KEY: Json = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "A text that no other request of this client has; a repeat gets the same answer.",
    "schema": {"type": "string", "pattern": "^[!#-~]([ !#-~]{0,253}[!#-~])?$"},
}
_ACCEPTED: Json = {
    "type": "object",
    "properties": {
        "index": {"type": "integer", "minimum": 0},
        "outcome": {"const": "accepted"},
        "partition": {"type": ["integer", "null"], "description": "Null where the log chooses: the topic has no key."},
        "timestamp_ms": {"type": "integer"},
    },
    "required": ["index", "outcome", "partition", "timestamp_ms"],
    "additionalProperties": False,
}
_REFUSED: Json = {
    "type": "object",
    "properties": {
        "index": {"type": "integer", "minimum": 0},
        "outcome": {"const": "refused"},
        "code": {"type": "string", "description": "Stable; the reason is for people."},
        "field": {"type": ["string", "null"]},
        "reason": {"type": "string"},
    },
    "required": ["index", "outcome", "code", "field", "reason"],
    "additionalProperties": False,
}
_ANSWER: Json = {
    "type": "object",
    "properties": {
        "topic": {"type": "string"},
        "accepted": {"type": "integer", "minimum": 0},
        "refused": {"type": "integer", "minimum": 0},
        "records": {"type": "array", "items": {"oneOf": [_ACCEPTED, _REFUSED]}},
    },
    "required": ["topic", "accepted", "refused", "records"],
    "additionalProperties": False,
}
_PROBLEM: Json = {
    "type": "object",
    "properties": {
        "status": {"type": "integer"},
        "title": {"type": "string"},
        "code": {"type": "string", "description": "Stable."},
        "detail": {"type": "string"},
    },
    "required": ["status", "title", "code", "detail"],
}
