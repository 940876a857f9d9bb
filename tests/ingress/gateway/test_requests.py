"""What a client is told for each kind of request, and what is in the topic afterwards."""

from __future__ import annotations

import gzip
import json
import socket
from contextlib import ExitStack
from typing import Any

import pytest

from headrace.testing.sink_harness import wait_until
from tests.ingress.gateway.scene import (
    BATCH_TYPE,
    EVENT_TYPE,
    NDJSON,
    OTHER_TOKEN,
    Client,
    Door,
    event,
    ndjson,
)
from tests.ingress.shop import NOW_MS, order

HEAD = (
    b"POST /topics/orders HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer shop-token-0123456789\r\n"
    b"Content-Type: application/json\r\n"
)


def test_every_form_of_body_publishes_its_records(door: Door) -> None:
    """One record, an array, NDJSON with empty lines, packed NDJSON, and the three modes of CloudEvents."""
    client = door.client(door.gateway())
    answers = [
        client.post("orders", order(1)),
        client.post("orders", [order(2), order(3)]),
        client.post("orders", b"\n" + ndjson([order(4), order(5)]) + b" \n", NDJSON),
        client.post("orders", ndjson([order(6), order(7)]), NDJSON, pack=True),
        client.post("orders", event(8, order(8)), EVENT_TYPE),
        client.post("orders", [event(9, order(9)), event(10, order(10))], BATCH_TYPE),
        client.post(
            "orders", order(11), ce_specversion="1.0", ce_id="e-11", ce_source="%2Fshop", ce_type="placed", ce_shop="7"
        ),
    ]
    assert [each.status for each in answers] == [200] * len(answers), [each.body for each in answers]
    assert [each.json["accepted"] for each in answers] == [1, 2, 2, 2, 1, 2, 1]
    assert sorted(row["amount"] for row in door.rows("orders")) == [float(number) for number in range(1, 12)]
    for answer in answers:
        assert answer.json["topic"] == "orders"
        assert [each["index"] for each in answer.json["records"]] == list(range(answer.json["accepted"]))


def test_an_answer_says_where_the_record_is(door: Door) -> None:
    """Partition and timestamp are those of the record; without a key the log chooses, and null says so."""
    client = door.client(door.gateway())
    [told] = client.post("orders", order(1)).json["records"]
    [record] = door.records("orders")
    assert (told["partition"], told["timestamp_ms"]) == (record.partition, record.timestamp_ms)
    [told] = client.post("clicks", {"page": "/"}).json["records"]
    assert told["partition"] is None


def test_attributes_of_events_are_headers(door: Door) -> None:
    """As in CloudEvents' binding of Kafka; percent signs of HTTP's headers are read."""
    client = door.client(door.gateway())
    client.post("orders", event(1, order(1), shop=7.0, urgent=True, subject=None), EVENT_TYPE)
    client.post("orders", order(2), ce_specversion="1.0", ce_id="e-2", ce_source="%2Fshop%20a", ce_type="placed")
    found = sorted(sorted(record.headers) for record in door.records("orders"))
    common = [("ce_specversion", b"1.0"), ("ce_type", b"placed")]
    assert found == [
        sorted([*common, ("ce_id", b"e-1"), ("ce_source", b"/shop"), ("ce_shop", b"7"), ("ce_urgent", b"true")]),
        sorted([*common, ("ce_id", b"e-2"), ("ce_source", b"/shop a")]),
    ]


def test_each_refused_record_says_why_and_the_others_go_in(door: Door) -> None:
    """207 with the field at fault and a stable code by record; never the value."""
    client = door.client(door.gateway())
    lines = [
        json.dumps(order(0)),
        json.dumps({**order(1), "amount": "secret"}),
        "{broken",
        json.dumps({"amount": 1.0, "placed_at": NOW_MS}),
        json.dumps({**order(4), "placed_at": None}),
        json.dumps({**order(5), "surprise": 1}),
        "[1]",
        json.dumps({**order(7), "placed_at": "2013-01-01T05:15:00"}),
        json.dumps(order(8, note="x" * 2_000_000)),
        json.dumps(order(9)),
    ]
    answer = client.post("orders", "\n".join(lines).encode(), NDJSON)
    assert answer.status == 207
    told = {each["index"]: (each["code"], each["field"]) for each in answer.json["records"] if "code" in each}
    assert told == {
        1: ("ingress.contract_violation", "amount"),
        2: ("ingress.request_malformed", None),
        3: ("ingress.key_missing", "id"),
        4: ("ingress.event_time_invalid", "placed_at"),
        5: ("ingress.contract_violation", "surprise"),
        6: ("ingress.request_malformed", None),
        7: ("ingress.contract_violation", "placed_at"),
        8: ("log.record_too_large", None),
    }
    assert (answer.json["accepted"], answer.json["refused"]) == (2, 8)
    assert b"secret" not in answer.body
    assert sorted(row["id"] for row in door.rows("orders")) == ["o-0", "o-9"]


@pytest.mark.parametrize(
    ("topic", "body", "content_type", "status", "code"),
    [
        ("orders", b"{", "application/json", 400, "ingress.request_malformed"),
        ("orders", b"", "application/json", 400, "ingress.request_malformed"),
        ("orders", b"[]", "application/json", 400, "ingress.request_malformed"),
        ("orders", b"7", "application/json", 400, "ingress.request_malformed"),
        ("orders", b"[" * 100_000, "application/json", 400, "ingress.request_malformed"),
        ("orders", b'{"amount": NaN}', "application/json", 400, "ingress.request_malformed"),
        ("orders", b'{"amount": 1' + b"0" * 5_000 + b"}", "application/json", 400, "ingress.request_malformed"),
        ("orders", b'{"id": "\xff"}', "application/json", 400, "ingress.request_malformed"),
        ("orders", b"{", NDJSON, 400, "ingress.request_malformed"),
        ("orders", b"{}", EVENT_TYPE, 400, "ingress.request_malformed"),
        ("orders", b'[{"specversion": "0.3"}]', BATCH_TYPE, 400, "ingress.request_malformed"),
        ("orders", b'{"id": "o", "amount": 1e999}', "application/json", 422, "ingress.contract_violation"),
        ("orders", b"<order/>", "text/xml", 415, "ingress.media_type_unknown"),
        ("orders", b"{}", "", 415, "ingress.media_type_unknown"),
        ("orders", b"{}", "application/json; charset=latin1", 415, "ingress.media_type_unknown"),
        ("missing", b"{}", "application/json", 404, "ingress.unknown_contract"),
        ("items", b"{}", "application/json", 403, "ingress.not_publishable"),
        ("clicks2", b"{}", "application/json", 404, "ingress.unknown_contract"),
        ("shop.gateway.answers", b"{}", "application/json", 403, "ingress.topic_forbidden"),
        ("_schemas", b"{}", "application/json", 403, "ingress.topic_forbidden"),
    ],
)
def test_bad_requests(door: Door, topic: str, body: bytes, content_type: str, status: int, code: str) -> None:
    """Each kind of mistake has its status and code, and publishes nothing."""
    client = door.client(door.gateway())
    answer = client.post(topic, body, content_type)
    assert (answer.status, set(answer.codes)) == (status, {code}), answer.body
    assert door.count("orders") == 0
    assert client.post("orders", order(1)).status == 200


def test_tokens(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    """Without a token, with another's, and with a known one for a topic that it may not write."""
    gateway = door.gateway()
    none, wrong = door.client(gateway, None), door.client(gateway, "wrong-token-0123456789")
    answer = none.post("orders", order(1))
    assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, 'Bearer realm="headrace"')
    answer = wrong.post("orders", order(1))
    assert (answer.status, answer.codes) == (401, ["ingress.unauthenticated"])
    assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]
    web = door.client(gateway, OTHER_TOKEN)
    answer = web.post("orders", order(1))
    assert (answer.status, answer.codes) == (403, ["ingress.topic_forbidden"])
    assert web.post("nowhere", order(1)).status == 403
    assert web.post("clicks", {"page": "/"}).status == 200
    assert none.request("GET", "/openapi.json").status == 401
    assert "token-0123" not in caplog.text
    assert door.count("orders") == 0


def test_limits_of_size(door: Door) -> None:
    """Bytes, told and not told before; bytes of a packed body; records."""
    gateway = door.gateway(body_bytes_max=10_000, records_max=3)
    client = door.client(gateway)
    large = order(1, note="x" * 20_000)
    assert client.post("orders", large).status == 413
    assert client.post("orders", large, pack=True).codes == ["ingress.request_too_large"]
    assert client.post("orders", gzip.compress(bytes(100_000_000)), Content_Encoding="gzip").status == 413
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(json.dumps(large)), json.dumps(large).encode())
    assert _raw(gateway, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", chunked).startswith(b"HTTP/1.1 413")
    assert client.post("orders", [order(number) for number in range(4)]).status == 413
    assert client.post("orders", ndjson([order(number) for number in range(4)]), NDJSON).status == 413
    assert client.post("orders", b"no gzip", Content_Encoding="gzip").status == 400
    assert client.post("orders", gzip.compress(b"{}")[:-4], Content_Encoding="gzip").status == 400
    assert client.post("orders", b"{}", Content_Encoding="br").status == 415
    assert door.count("orders") == 0
    assert client.post("orders", [order(number) for number in range(3)]).status == 200


def _raw(gateway: Any, *parts: bytes) -> bytes:
    """What comes back for these bytes, until the gateway closes the connection."""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as connection:
        for part in parts:
            connection.sendall(part)
        found = b""
        while part := connection.recv(65_536):
            found += part
        return found


def test_slow_clients(door: Door) -> None:
    """A body that does not come is 408, and so are headers that do not come, once the gateway's patience is over and
    not before; others are served meanwhile."""
    unfinished = (HEAD + b"Content-Length: 100\r\n\r\n" + b'{"id":', b"POST /topics/ord")
    patient, gateway = door.gateway(body_timeout_ms=600_000), door.gateway(body_timeout_ms=300)
    with ExitStack() as stack:
        waiting = [stack.enter_context(socket.create_connection(("127.0.0.1", patient.port))) for _ in unfinished]
        for connection, part in zip(waiting, unfinished, strict=True):
            connection.sendall(part)
        assert door.client(patient).post("orders", order(1)).status == 200
        body, headers = (_raw(gateway, part) for part in unfinished)
        assert body.startswith(b"HTTP/1.1 408"), body
        assert b"ingress.request_slow" in body
        assert headers.startswith(b"HTTP/1.1 408")
        assert door.client(gateway).post("orders", order(2)).status == 200
        for connection in waiting:
            connection.setblocking(False)
            with pytest.raises(BlockingIOError):
                connection.recv(1)


def test_connections_are_bounded(door: Door) -> None:
    """One too many is told so at once; when another goes there is room again."""
    gateway = door.gateway(connections_max=3, ready=False)
    assert gateway.port is not None
    kept = [Client(gateway.port) for _ in range(3)]
    assert all(client.request("GET", "/live").status == 200 for client in kept)
    assert b" 503 " in _raw(gateway, b"")
    kept[0].close()
    wait_until(lambda: b" 503 " not in _raw_start(gateway), "room for another connection")
    for client in kept:
        client.close()


def test_connections_that_come_and_go_take_no_room(door: Door) -> None:
    """However many there were a moment ago."""
    gateway = door.gateway(connections_max=3, ready=False)
    answers = [_raw_start(gateway) for _ in range(20)]
    assert not [answer for answer in answers if b" 200 " not in answer]


def _raw_start(gateway: Any) -> bytes:
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as connection:
        connection.sendall(b"GET /live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return connection.recv(65_536)


def test_a_client_that_sends_too_much_waits(door: Door) -> None:
    """429 tells for how long; another client is not concerned."""
    gateway = door.gateway(records_per_second=1_000, burst_seconds=0.1)
    client, other = door.client(gateway), door.client(gateway, OTHER_TOKEN)
    assert client.post("orders", [order(number) for number in range(3_000)]).status == 200
    answer = client.post("orders", order(1))
    assert (answer.status, answer.codes) == (429, ["ingress.rate_limited"])
    assert int(answer.headers["Retry-After"]) in (1, 2, 3)
    assert other.post("clicks", {"page": "/"}).status == 200


def test_unknown_addresses_and_methods(door: Door) -> None:
    """404 and 405 in the form of every other problem."""
    client = door.client(door.gateway())
    answer = client.request("GET", "/nowhere")
    assert (answer.status, answer.codes) == (404, ["ingress.no_such_address"])
    answer = client.request("PUT", "/topics/orders", b"{}")
    assert (answer.status, answer.headers["Allow"]) == (405, "POST")


def test_metrics_count_records_by_topic_and_outcome(door: Door) -> None:
    """Labels are topics of contracts and outcomes; a name that a client makes up is none."""
    client = door.client(door.gateway())
    client.post("orders", [order(1), {**order(2), "amount": "x"}])
    client.post("made-up", order(1))
    text = client.request("GET", "/metrics").body.decode()
    assert 'headrace_gateway_records_total{name="door",outcome="accepted",topic="orders"} 1.0' in text
    assert 'headrace_gateway_records_total{name="door",outcome="refused",topic="orders"} 1.0' in text
    assert 'headrace_gateway_requests_total{name="door",status="207"} 1.0' in text
    assert 'headrace_gateway_request_seconds_count{name="door"} 2.0' in text
    assert "made-up" not in text
