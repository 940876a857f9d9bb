"""The REST subset: status, error code and body of each answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from aiohttp.test_utils import TestClient, TestServer

from headrace.contracts.avro import AvroSchema
from headrace.contracts.registry import RegistryUnavailable
from headrace.contracts.registry_memory import MemoryRegistry
from headrace.contracts.registry_server import registry_app

A = '{"type":"record","name":"R","fields":[{"name":"a","type":"int"}]}'
AB = '{"type":"record","name":"R","fields":[{"name":"a","type":"int"},{"name":"b","type":"int"}]}'


@pytest.fixture
def registry() -> MemoryRegistry:
    return MemoryRegistry()


@pytest_asyncio.fixture
async def client(registry: MemoryRegistry) -> AsyncIterator[TestClient[Any, Any]]:
    async with TestClient(TestServer(registry_app(registry))) as client:
        yield client


async def ask(client: TestClient[Any, Any], question: str, body: Any = None) -> tuple[int, Any]:
    method, path = question.split(" ", 1)
    response = await client.request(method, path, json=body)
    assert response.content_type == "application/vnd.schemaregistry.v1+json"
    return response.status, await response.json(content_type=None)


async def test_registering_and_looking_up(client: TestClient[Any, Any]) -> None:
    """The way of a schema through the interface, as Confluent's clients walk it."""
    status, made = await ask(client, "POST /subjects/a-value/versions", {"schema": A})
    assert (status, made["id"], made["version"]) == (200, 1, 1)
    assert await ask(client, "GET /schemas/ids/1") == (200, {"schema": A})
    assert (await ask(client, "GET /schemas/ids/1/schema"))[1] == AvroSchema.parse(A).definition
    assert (await ask(client, f"GET /schemas/guids/{made['guid']}"))[1]["schema"] == A
    assert await ask(client, "GET /subjects") == (200, ["a-value"])
    assert await ask(client, "GET /subjects?subjectPrefix=b") == (200, [])
    assert await ask(client, "GET /subjects/a-value/versions") == (200, [1])
    for version in ("1", "latest", "-1"):
        assert await ask(client, f"GET /subjects/a-value/versions/{version}") == (200, made)
    assert (await ask(client, "GET /subjects/a-value/versions/1/schema"))[1] == AvroSchema.parse(A).definition
    assert await ask(client, "POST /subjects/a-value", {"schema": A}) == (200, made)
    assert await ask(client, "GET /schemas/types") == (200, ["AVRO"])
    assert await ask(client, "GET /") == (200, {})


@pytest.mark.parametrize(
    ("question", "body", "status", "code"),
    [
        ("GET /schemas/ids/99", None, 404, 40403),
        ("GET /schemas/ids/x", None, 404, 404),
        ("GET /schemas/guids/00000000-0000-0000-0000-000000000000", None, 404, 40403),
        ("GET /schemas/guids/x", None, 404, 40403),
        ("GET /subjects/none/versions", None, 404, 40401),
        ("GET /subjects/none/versions/1", None, 404, 40401),
        ("GET /subjects/a-value/versions/9", None, 404, 40402),
        ("GET /subjects/a-value/versions/0", None, 422, 42202),
        ("GET /subjects/a-value/versions/one", None, 422, 42202),
        ("POST /subjects/none", {"schema": A}, 404, 40401),
        ("POST /subjects/a-value", {"schema": AB}, 404, 40403),
        ("POST /subjects/a-value/versions", {"schema": AB}, 409, 409),
        ("POST /subjects/a-value/versions", {"schema": '{"type":"nonsense"}'}, 422, 42201),
        ("POST /subjects/a-value/versions", {"schema": "{"}, 422, 42201),
        ("POST /subjects/a-value/versions", {"schema": ""}, 422, 42201),
        ("POST /subjects/a-value/versions", {}, 422, 42201),
        ("POST /subjects/a-value/versions", {"schema": "message M {}", "schemaType": "PROTOBUF"}, 422, 42201),
        ("POST /subjects/a-value/versions", {"schema": A, "references": [{"name": "X"}]}, 422, 42201),
        ("POST /subjects/a-value/versions", [], 400, 400),
        ("POST /compatibility/subjects/a-value/versions/9", {"schema": A}, 404, 40402),
        ("PUT /config", {"compatibility": "SIDEWAYS"}, 422, 42203),
        ("PUT /config/a-value", {}, 422, 42203),
        ("PUT /config/a-value", {"compatibility": None}, 422, 42203),
        ("GET /nowhere", None, 404, 404),
        ("DELETE /subjects/a-value", None, 405, 405),
    ],
)
async def test_refusals(client: TestClient[Any, Any], question: str, body: Any, status: int, code: int) -> None:
    """Each has Confluent's code and a message."""
    await ask(client, "POST /subjects/a-value/versions", {"schema": A})
    answered, error = await ask(client, question, body)
    assert (answered, error["error_code"]) == (status, code)
    assert error["message"]


async def test_compatibility_can_be_asked_before_registering(client: TestClient[Any, Any]) -> None:
    """Against one version, all of them, or none yet; reasons on request."""
    await ask(client, "POST /subjects/a-value/versions", {"schema": A})
    question = "POST /compatibility/subjects/a-value/versions"
    assert await ask(client, f"{question}/latest", {"schema": A}) == (200, {"is_compatible": True})
    assert await ask(client, f"{question}/1", {"schema": AB}) == (200, {"is_compatible": False})
    _, answer = await ask(client, f"{question}?verbose=true", {"schema": AB})
    assert answer["is_compatible"] is False
    assert "version 1, field b" in answer["messages"][0]
    assert await ask(client, "POST /compatibility/subjects/new/versions/latest", {"schema": AB}) == (
        200,
        {"is_compatible": True},
    )


async def test_modes(client: TestClient[Any, Any]) -> None:
    """A subject's own mode, and the one for all others."""
    assert await ask(client, "GET /config") == (200, {"compatibilityLevel": "BACKWARD"})
    assert await ask(client, "PUT /config", {"compatibility": "FULL"}) == (200, {"compatibility": "FULL"})
    assert await ask(client, "PUT /config/a", {"compatibility": "NONE"}) == (200, {"compatibility": "NONE"})
    assert await ask(client, "GET /config/a") == (200, {"compatibilityLevel": "NONE"})
    assert await ask(client, "GET /config/b") == (200, {"compatibilityLevel": "FULL"})


async def test_a_registry_in_trouble_says_so(
    client: TestClient[Any, Any], registry: MemoryRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503, so that clients try again."""

    def unavailable() -> None:
        raise RegistryUnavailable("the log does not answer")

    monkeypatch.setattr(registry, "subjects", unavailable)
    status, error = await ask(client, "GET /subjects")
    assert (status, error["error_code"]) == (503, 50001)


async def test_a_body_that_is_not_json(client: TestClient[Any, Any]) -> None:
    """A client's mistake, not the server's."""
    response = await client.post("/subjects/a/versions", data=b"{")
    assert response.status == 400
