"""The OpenAPI document: complete, and true of every request that schemathesis can think of."""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.config import SchemathesisConfig

from headrace.contracts.avro import AvroSchema
from headrace.contracts.contract import Contract, TopicKind
from headrace.ingress.gateway.errors import Refusal
from headrace.ingress.gateway.events import ATTRIBUTE_CHARACTERS_MAX
from headrace.ingress.gateway.openapi import PROBLEMS
from headrace.ingress.gateway.problems import status_of
from headrace.ingress.gateway.server import KEY_HEADER
from tests.ingress.gateway.scene import OTHER_TOKEN, TOKEN, Door, sha256
from tests.ingress.gateway.test_mapping import KINDS
from tests.ingress.shop import CONTRACTS

KEY = re.compile("[!#-~]([ !#-~]{0,253}[!#-~])?")
WITHOUT_LIMITS_OF_NUMBERS = [name for name in KINDS if name not in ("decimal", "money", "double", "float", "list")]
"""JSON Schema cannot say how many digits a number has, nor which whole numbers a double holds."""
THINGS = Contract(
    "things",
    AvroSchema.parse(
        {
            "type": "record",
            "name": "Thing",
            "fields": [
                {"name": "id", "type": "long", "doc": "Who it is."},
                *(
                    {"name": name, "type": KINDS[name][0], "doc": f"A {name}."}
                    for name in WITHOUT_LIMITS_OF_NUMBERS
                    if name != "long"
                ),
                {"name": "pieces", "type": "int", "default": 1},
            ],
        }
    ),
    key=("id",),
    description="All kinds of things.",
    units={"pieces": "boxes"},
    tags={"uuid": ("asset-id",)},
)
PAGES = Contract(
    "pages",
    AvroSchema.parse({"type": "record", "name": "Page", "fields": [{"name": "url", "type": "string"}]}),
)


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    door = Door(tmp_path_factory.mktemp("openapi"), {"things": THINGS, "pages": PAGES})
    clients = {"shop": {"sha256": sha256(TOKEN), "topics": ["*"]}}
    gateway = door.gateway(clients=clients, records_per_second=1e9, body_bytes_max=10_000_000, linger_ms=0)
    yield schemathesis.openapi.from_url(
        f"http://127.0.0.1:{gateway.port}/openapi.json",
        headers={"Authorization": f"Bearer {TOKEN}"},
        config=SchemathesisConfig.from_dict(
            {"checks": {"negative_data_rejection": {"expected-statuses": [207, 400, 401, 403, 404, 413, 415, 422]}}}
        ),
    )
    door.close()


@schemathesis.serializer("application/x-ndjson")
def ndjson(context: Any, value: Any) -> bytes:
    """A line of each item; what is no array is no lines either."""
    if isinstance(value, list):
        return "".join(json.dumps(item) + "\n" for item in value).encode()
    return json.dumps(value, indent=2).encode() + b"\n}"


def made_new(case: Any) -> None:
    """Valid keys, and valid ids of events, that no request had before: that a second one is refused is no news."""
    key = (case.headers or {}).get(KEY_HEADER)
    if isinstance(key, str) and KEY.fullmatch(key):
        case.headers[KEY_HEADER] = uuid.uuid4().hex
    elif isinstance(key, str) and KEY.fullmatch(key.strip()):
        # HTTP takes the blanks around a value away: it is no wrong one for whoever receives it.
        case.headers[KEY_HEADER] = ""
    for event in case.body if isinstance(case.body, list) else [case.body]:
        if isinstance(event, dict) and isinstance(event.get("specversion"), str):
            given = event.get("id")
            if isinstance(given, str) and 0 < len(given) <= ATTRIBUTE_CHARACTERS_MAX:
                event["id"] = uuid.uuid4().hex


MORE = bool(os.environ.get("HEADRACE_LONG_FAULTS"))
"""Other requests each time, and more of them."""
EXAMPLES = 200 if MORE else 25

schema = schemathesis.pytest.from_fixture("document")


@schema.parametrize()
@settings(max_examples=EXAMPLES, derandomize=not MORE, deadline=None, suppress_health_check=list(HealthCheck))
def test_schemathesis_finds_nothing(case: Any) -> None:
    """Statuses, headers, bodies and content types are as the document says; what it forbids is refused, record by
    record: with 207 the others of the request went in."""
    made_new(case)
    case.call_and_validate(headers={**(case.headers or {}), "Authorization": f"Bearer {TOKEN}"})


def test_the_document_shows_the_topics_of_the_client(tmp_path: Path) -> None:
    """Those that its token may write; documentation and units with them; no topic of changes."""
    door = Door(tmp_path, {**CONTRACTS, "things": THINGS})
    clients = {
        "shop": {"sha256": sha256(TOKEN), "topics": ["*"]},
        "web": {"sha256": sha256(OTHER_TOKEN), "topics": ["clicks"]},
    }
    gateway = door.gateway(clients=clients)
    found = door.client(gateway).request("GET", "/openapi.json").json
    assert set(found["paths"]) == {"/topics/orders", "/topics/customers", "/topics/clicks", "/topics/things"}
    assert "items" in CONTRACTS
    assert CONTRACTS["items"].kind is TopicKind.CHANGE
    thing = found["components"]["schemas"]["record.things"]
    assert thing["properties"]["id"]["description"] == "Who it is."
    assert thing["properties"]["pieces"] == {
        "type": "integer",
        "minimum": -(2**31),
        "maximum": 2**31 - 1,
        "default": 1,
        "x-unit": "boxes",
        "description": "Unit: boxes.",
    }
    assert thing["properties"]["uuid"]["x-tags"] == ["asset-id"]
    assert "pieces" not in thing["required"]
    assert "optional" not in thing["required"]
    assert thing["additionalProperties"] is False
    web = door.client(gateway, OTHER_TOKEN).request("GET", "/openapi.json").json
    assert list(web["paths"]) == ["/topics/clicks"]
    door.close()


def test_every_status_is_in_the_document() -> None:
    """Of all refusals that there are."""
    assert {error.status for error in Refusal.__subclasses__()} <= set(PROBLEMS)
    assert status_of(Refusal("x")) in PROBLEMS
