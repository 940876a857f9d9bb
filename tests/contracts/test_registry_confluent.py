"""What is particular to a registry behind HTTP: trouble on the way, secrets, references, servers of other ages."""

from __future__ import annotations

import base64
import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from headrace.contracts import registry_http
from headrace.contracts.avro import AvroSchema
from headrace.contracts.registry import (
    CompatibilityMode,
    RegistryError,
    RegistryUnavailable,
    SchemaIncompatible,
    UnknownSchemaId,
)
from headrace.contracts.registry_confluent import ConfluentRegistry, SchemaNotAvro, SchemaRejected, with_references
from headrace.contracts.registry_http import Credentials, RegistryHttp, RegistryUnauthorised, backoff_s, parse_urls

R = AvroSchema.parse({"type": "record", "name": "R", "fields": []})


class Script:
    """A server that answers from a list, per path or in order, and notes what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, list[tuple[int, Any]]] = {}
        self.asked: list[tuple[str, str, dict[str, str], Any]] = []
        self.url = ""

    def answer(self, path: str, *answers: tuple[int, Any]) -> None:
        """Answers of `METHOD path`, in order; the last one stays."""
        self.answers[path] = list(answers)

    def reply(self, method: str, path: str) -> tuple[int, Any]:
        answers = self.answers.get(f"{method} {path}", [(404, {"error_code": 404, "message": "HTTP 404 Not Found"})])
        return answers.pop(0) if len(answers) > 1 else answers[0]


@contextmanager
def served(script: Script) -> Iterator[Script]:
    class Handler(BaseHTTPRequestHandler):
        def respond(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            script.asked.append((self.command, self.path, dict(self.headers), body))
            status, answer = script.reply(self.command, self.path)
            data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = respond

        def log_message(self, *args: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    script.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield script
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    monkeypatch.setattr(registry_http, "BACKOFF_FIRST_S", 0.001)
    with served(Script()) as script:
        yield script


def test_passing_trouble_is_tried_again(script: Script) -> None:
    """Two bad replies, then a good one: the caller sees the good one."""
    script.answer("GET /subjects", (503, {"message": "starting"}), (500, b"<html>proxy</html>"), (200, ["b", "a"]))
    assert list(ConfluentRegistry(script.url).subjects()) == ["a", "b"]
    assert len(script.asked) == 3


def test_lasting_trouble_ends_within_its_bound(script: Script) -> None:
    """The error may be retried, tells what was asked and what came back, and how often it was tried."""
    script.answer("GET /subjects", (503, {"error_code": 50003, "message": "no leader"}))
    with pytest.raises(RegistryUnavailable, match=r"GET /subjects, tried 3 times.*503: no leader"):
        ConfluentRegistry(script.url, attempts_max=3).subjects()
    assert len(script.asked) == 3


def test_nobody_there(script: Script) -> None:
    """No connection is `RegistryUnavailable` too."""
    registry = ConfluentRegistry("http://127.0.0.1:1", attempts_max=2, timeout_s=2)
    with pytest.raises(RegistryUnavailable, match=r"127\.0\.0\.1:1.*ConnectionRefused"):
        registry.by_id(1)


def test_another_address_of_the_registry_takes_over(script: Script) -> None:
    """Attempts go round the addresses given."""
    script.answer("GET /subjects", (200, []))
    assert list(ConfluentRegistry(f"http://127.0.0.1:1, {script.url}/").subjects()) == []


def test_backoff_doubles_up_to_its_limit() -> None:
    """With jitter it is between half and whole."""
    assert [backoff_s(attempt, 0.0) for attempt in (1, 2, 3, 10)] == [0.1, 0.2, 0.4, registry_http.BACKOFF_MAX_S]
    assert backoff_s(1, 1.0) == 0.05


def test_waits_between_attempts_use_the_given_clock() -> None:
    """No wait before the first attempt, one before each other."""
    waits: list[float] = []
    client = RegistryHttp("http://127.0.0.1:1", timeout_s=1, attempts_max=4, sleep=waits.append, jitter=lambda: 0.0)
    with pytest.raises(RegistryUnavailable):
        client.request("GET", "/subjects")
    assert waits == [0.1, 0.2, 0.4]


def test_credentials_are_sent_and_never_shown(script: Script) -> None:
    """From `auth` or from the URL; no message and no `repr` holds the password."""
    script.answer("GET /subjects", (401, {"error_code": 401, "message": "Unauthorized"}))
    with_password = script.url.replace("http://", "http://ann:s3cr%25t@")
    for registry in (ConfluentRegistry(script.url, auth=("ann", "s3cr%t")), ConfluentRegistry(with_password)):
        with pytest.raises(RegistryUnauthorised, match="'ann'") as caught:
            registry.subjects()
        assert "s3cr" not in str(caught.value)
        assert "s3cr" not in str(registry.endpoints)
        sent = script.asked[-1][2]["Authorization"]
        assert base64.b64decode(sent.removeprefix("Basic ")) == b"ann:s3cr%t"
    assert "s3cr" not in repr(Credentials("ann", "s3cr%t"))
    with pytest.raises(RegistryUnavailable) as unavailable:
        ConfluentRegistry("http://ann:s3cret@127.0.0.1:1", attempts_max=1).subjects()
    assert "s3cret" not in str(unavailable.value)


@pytest.mark.parametrize("url", ["", " , ", "ftp://host", "localhost:8081", "http://", "http://user:s3cret@host:port"])
def test_a_wrong_url_is_named(url: str) -> None:
    """Without its password."""
    with pytest.raises(RegistryError, match="URL") as caught:
        ConfluentRegistry(url)
    assert "s3cret" not in str(caught.value)


def test_addresses_are_shown_in_full() -> None:
    """Path prefixes and IPv6 stay."""
    endpoints, credentials = parse_urls("https://a.example/registry/, http://[::1]:8081")
    assert [str(each) for each in endpoints] == ["https://a.example/registry", "http://[::1]:8081"]
    assert credentials is None


def test_something_else_behind_the_url(script: Script) -> None:
    """A web page with status 200 is not a registry."""
    script.answer("GET /subjects", (200, b"<html>hello</html>"))
    with pytest.raises(RegistryError, match="not JSON"):
        ConfluentRegistry(script.url).subjects()
    script.answer("GET /subjects/a/versions/latest", (200, {"hello": 1}))
    with pytest.raises(RegistryError, match="hello"):
        ConfluentRegistry(script.url).latest("a")


def test_schemas_by_id_are_asked_once(script: Script) -> None:
    """What an id means never changes."""
    script.answer("GET /schemas/ids/7", (200, {"schema": R.text}), (500, {}))
    registry = ConfluentRegistry(script.url)
    assert registry.by_id(7) == registry.by_id(7) == R
    assert len(script.asked) == 1


def test_ids_without_an_avro_schema_fail_their_row(script: Script) -> None:
    """A Protobuf schema, or a text that is no schema, means that the value cannot be decoded."""
    script.answer("GET /schemas/ids/8", (200, {"schema": "message M {}", "schemaType": "PROTOBUF"}))
    script.answer("GET /schemas/ids/9", (200, {"schema": '{"type":"nonsense"}'}))
    registry = ConfluentRegistry(script.url)
    with pytest.raises(UnknownSchemaId, match=r"id 8.*PROTOBUF"):
        registry.by_id(8)
    with pytest.raises(UnknownSchemaId, match=r"id 9.*nonsense"):
        registry.by_id(9)
    script.answer(
        "GET /subjects/a/versions/latest", (200, {"id": 8, "version": 1, "schema": "x", "schemaType": "JSON"})
    )
    with pytest.raises(SchemaNotAvro):
        registry.latest("a")


def test_a_server_that_answers_with_the_id_alone(script: Script) -> None:
    """Older servers do; the version is asked for, and the GUID is derived."""
    script.answer("POST /subjects/a-value/versions", (200, {"id": 3}))
    script.answer("POST /subjects/a-value", (200, {"subject": "a-value", "id": 3, "version": 2, "schema": R.text}))
    registry = ConfluentRegistry(script.url)
    made = registry.register("a-value", R)
    assert (made.id, made.version) == (3, 2)
    assert registry.by_guid(made.guid) == R


def test_a_server_that_gives_guids(script: Script) -> None:
    """Its own GUID is taken."""
    guid = uuid.uuid4()
    body = {"subject": "a", "id": 3, "version": 2, "guid": str(guid), "schema": R.text}
    script.answer("POST /subjects/a/versions", (200, body))
    assert ConfluentRegistry(script.url).register("a", R).guid == guid
    assert len(script.asked) == 1


def test_a_server_without_a_mode_for_the_subject(script: Script) -> None:
    """Servers too old for `defaultToGlobal` answer 404; the server's own mode holds."""
    script.answer("GET /config/a?defaultToGlobal=true", (404, {"error_code": 40401, "message": "Subject not found"}))
    script.answer("GET /config", (200, {"compatibilityLevel": "FULL"}))
    assert ConfluentRegistry(script.url).compatibility("a") is CompatibilityMode.FULL


def test_the_servers_reasons_are_kept(script: Script) -> None:
    """One by one where it lists them, else its whole message."""
    listed = (
        'Schema being registered is incompatible with an earlier schema for subject "a", details: '
        "[{errorType:'READER_FIELD_MISSING_DEFAULT_VALUE', description:'The field 'b' at path '/fields/1' in the new "
        "schema has no default value and is missing in the old schema', additionalInfo:'b'}, {errorType:'X', "
        "description:'second', additionalInfo:''}, {oldSchemaVersion: 1}]"
    )
    script.answer("POST /subjects/a/versions", (409, {"error_code": 409, "message": listed}))
    with pytest.raises(SchemaIncompatible) as caught:
        ConfluentRegistry(script.url).register("a", R)
    assert len(caught.value.reasons) == 2
    assert caught.value.reasons[0].startswith("The field 'b' at path '/fields/1'")
    script.answer("POST /subjects/a/versions", (409, {"error_code": 409, "message": "no"}))
    with pytest.raises(SchemaIncompatible) as caught:
        ConfluentRegistry(script.url).register("a", R)
    assert caught.value.reasons == ("no",)


def test_a_refused_schema_is_not_a_lack_of_the_registry(script: Script) -> None:
    """422 is about the schema; nothing is tried again."""
    script.answer("POST /subjects/a/versions", (422, {"error_code": 42201, "message": "Invalid schema"}))
    with pytest.raises(SchemaRejected, match="42201: Invalid schema"):
        ConfluentRegistry(script.url).register("a", R)
    assert len(script.asked) == 1


def test_referenced_schemas_are_written_in(script: Script) -> None:
    """Over two levels, with a diamond: both referred ones use the same third one."""
    base = {"type": "enum", "name": "c.Currency", "symbols": ["EUR", "USD"]}
    price = {"type": "record", "name": "c.Price", "fields": [{"name": "currency", "type": "c.Currency"}]}
    tax = {"type": "record", "name": "c.Tax", "fields": [{"name": "currency", "type": "Currency"}]}
    order = {
        "type": "record",
        "name": "o.Order",
        "fields": [{"name": "price", "type": "c.Price"}, {"name": "tax", "type": ["null", "c.Tax"]}],
    }

    def refers(*subjects: str) -> list[dict[str, Any]]:
        return [{"name": subject, "subject": subject, "version": 1} for subject in subjects]

    script.answer("GET /schemas/ids/5", (200, {"schema": json.dumps(order), "references": refers("price", "tax")}))
    for subject, schema, references in (
        ("price", price, ["currency"]),
        ("tax", tax, ["currency"]),
        ("currency", base, []),
    ):
        body = {"subject": subject, "version": 1, "id": 1, "schema": json.dumps(schema)}
        body["references"] = refers(*references)
        script.answer(f"GET /subjects/{subject}/versions/1", (200, body))
    schema = ConfluentRegistry(script.url).by_id(5)
    assert schema.fullname == "o.Order"
    assert set(schema.names) == {"o.Order", "c.Price", "c.Tax", "c.Currency"}
    assert AvroSchema.parse(schema.text) == schema


def test_a_schema_without_need_of_its_references() -> None:
    """What it does not use stays out."""
    assert with_references('"string"', [R.text]) == AvroSchema.parse("string")
