"""A gateway in a workspace: what `plan` says of its file, how `run` runs it, and that its page tells the truth."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from headrace.ingress.config import load_ingress
from headrace.ingress.environment import GivenEnvironment
from headrace.ingress.gateway.config import ClientConfig, GatewayConfig
from headrace.ingress.gateway.openapi import PROBLEMS
from headrace.ingress.gateway.worker import AddressTaken, Gateway
from headrace.ingress.violations import IngressInvalid
from headrace.workspace.apply import apply_plan
from headrace.workspace.environment import connect
from headrace.workspace.load import load
from headrace.workspace.plan import make_plan
from tests.ingress.gateway.scene import TOKEN, Client, Door, clients, sha256
from tests.ingress.shop import order

PAGE = (Path(__file__).parents[3] / "docs" / "gateway.md").read_text(encoding="utf-8")
[GATEWAY] = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
ORDERS = "topic: orders.placed\nowner: orders\nkey: order_id\nfields: {order_id: string, amount: double}\n"


def workspace(root: Path, gateway: str = GATEWAY) -> Path:
    for name, text in {
        "headrace.toml": 'name = "shop"\n',
        "contracts/orders.yaml": ORDERS,
        "ingress/door.yaml": gateway,
    }.items():
        (root / name).parent.mkdir(exist_ok=True, parents=True)
        (root / name).write_text(text)
    return root


def problems(root: Path) -> list[dict[str, Any]]:
    loaded = load(root)
    with connect(loaded.file, loaded.contracts) as environment:
        return [each.as_json() for each in make_plan(loaded, environment).problems]


def free_port() -> int:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_a_plan_tells_what_a_gateway_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable, a token that can be guessed, topics that fit none, a certificate: each with its line."""
    monkeypatch.delenv("SHOP_TOKEN", raising=False)
    root = workspace(tmp_path)
    [found] = problems(root)
    assert (found["code"], found["line"]) == ("ingress.invalid", 5)
    assert "SHOP_TOKEN" in found["message"]
    monkeypatch.setenv("SHOP_TOKEN", "short")
    assert "can be guessed" in problems(root)[0]["message"]
    monkeypatch.setenv("SHOP_TOKEN", TOKEN)
    assert problems(root) == []
    workspace(tmp_path, GATEWAY.replace("orders.*", "clicks"))
    assert "'clicks'" in problems(root)[0]["message"]
    workspace(tmp_path, GATEWAY + "tls: {certificate: none.pem, key: none.key}\n")
    assert "'tls'" in problems(root)[0]["message"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (GATEWAY.replace('token: "${SHOP_TOKEN}"', "token: shop-secret-0123456789"), "does not belong in a file"),
        (GATEWAY.replace('token: "${SHOP_TOKEN}"', "sha256: abc"), "64 hexadecimal digits"),
        (GATEWAY.replace('    token: "${SHOP_TOKEN}"\n', ""), "needs `sha256` or `token`"),
        (GATEWAY + "body_bytes_max: 100000000\n", "waiting_mb_max must hold one body"),
        (GATEWAY + "linger: 5\n", "unknown key 'linger'"),
    ],
)
def test_files_that_are_wrong(tmp_path: Path, text: str, told: str) -> None:
    """They are refused when they are read, and what stands in the place of a secret is not repeated."""
    path = workspace(tmp_path, text) / "ingress" / "door.yaml"
    with pytest.raises(IngressInvalid) as refused:
        load_ingress(path)
    assert told in str(refused.value)
    assert "shop-secret" not in str(refused.value)


def test_two_clients_cannot_have_one_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody could say whose request it is."""
    given = {name: {"sha256": sha256(TOKEN), "topics": ["*"]} for name in ("a", "b")}
    config = GatewayConfig.model_validate({"name": "door", "clients": given})
    with pytest.raises(IngressInvalid, match="another entry has"):
        config.hashes()
    monkeypatch.setenv("HASH", sha256(TOKEN).upper() + "\n")
    filled = GatewayConfig.model_validate({"name": "door", "clients": {"a": {"sha256": "${HASH}", "topics": ["*"]}}})
    assert filled.hashes() == [(bytes.fromhex(sha256(TOKEN)), "a")]


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until `/ready` there is 200."""
    deadline = time.monotonic() + 60
    while True:
        try:
            with closing(Client(port)) as client:
                if client.request("GET", "/ready").status == 200:
                    return
        except OSError:
            assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def test_workers_share_a_port_and_drain(tmp_path: Path) -> None:
    """`headrace run --workers 2` as a user runs it: both serve, metrics are on the workers' ports, SIGTERM drains."""
    port, http_port = free_port(), free_port()
    root = workspace(tmp_path, GATEWAY.replace("8080", str(port)))
    environment = {**os.environ, "SHOP_TOKEN": TOKEN}
    environment.pop("HEADRACE_ENV", None)
    headrace = [sys.executable, "-m", "headrace.cli"]
    subprocess.run([*headrace, "apply", "--yes"], cwd=root, env=environment, check=True, capture_output=True)
    command = [*headrace, "run", "--workers", "2", "--http-port", str(http_port)]
    with (tmp_path / "run.log").open("wb") as output:
        process = subprocess.Popen(command, cwd=root, env=environment, stdout=output, stderr=output)
    try:
        for each in (http_port, http_port + 1, port):
            wait_for(each, process, tmp_path / "run.log")
        for number in range(20):
            with closing(Client(port)) as client:
                answer = client.post("orders.placed", {"order_id": f"o-{number}", "amount": 1})
                assert answer.status == 200, answer.body
        found = 0.0
        for worker in (0, 1):
            with urllib.request.urlopen(f"http://127.0.0.1:{http_port + worker}/metrics", timeout=10) as response:
                text = response.read().decode()
            found += sum(
                float(value) for value in re.findall(r"^headrace_gateway_records_total\{.*\} (.*)$", text, re.MULTILINE)
            )
        assert found == 20
        status = subprocess.run(
            [*headrace, "status", "--json"], cwd=root, env=environment, check=True, capture_output=True, text=True
        )
        assert '"door"' in status.stdout
        assert json.loads(status.stdout)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == 0, (tmp_path / "run.log").read_text()
    assert TOKEN not in (tmp_path / "run.log").read_text()


def test_an_environment_with_a_gateway_is_applied_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left to change afterwards, and there is no dead-letter topic: its client is told instead."""
    monkeypatch.setenv("SHOP_TOKEN", TOKEN)
    loaded = load(workspace(tmp_path))
    with connect(loaded.file, loaded.contracts) as environment:
        apply_plan(make_plan(loaded, environment), loaded, environment)
        assert make_plan(loaded, environment).changes == ()
        admin = environment.log.admin()
        assert "door.dlq" not in admin.topics()
        admin.close()


def test_tls(door: Door, tmp_path: Path) -> None:
    """With a certificate of its own the same request goes through TLS, and none without."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", str(key), "-out", str(certificate), "-subj", "/CN=localhost", "-days", "1"),
            *("-addext", "subjectAltName=DNS:localhost"),
        ],
        check=True,
        capture_output=True,
    )
    gateway = door.gateway(ready=False, tls={"certificate": str(certificate), "key": str(key)})
    trusting = ssl.create_default_context(cafile=str(certificate))
    request = urllib.request.Request(
        f"https://localhost:{gateway.port}/topics/orders",
        json.dumps(order(1)).encode(),
        {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, context=trusting, timeout=20) as response:
        assert response.status == 200
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        urllib.request.urlopen(f"http://localhost:{gateway.port}/live", timeout=20)
    assert door.count("orders") == 1


def test_a_port_that_is_taken_is_told(door: Door) -> None:
    """By the address and what to do."""
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        config = GatewayConfig.model_validate({"name": "door", "port": port, "clients": clients()})
        gateway = Gateway(config, GivenEnvironment(door.log, door.registry, door.contracts), door.contracts)
        with pytest.raises(AddressTaken, match=str(port)):
            gateway.run(threading.Event())


def test_every_key_is_documented_with_its_default() -> None:
    """The tables of the page are the models."""
    for section, model in (("## The file", GatewayConfig), ("### Clients", ClientConfig)):
        text = PAGE.partition(section)[2].partition("\n#")[0]
        rows = re.findall(r"^\|(`\w+`(?:, `\w+`)*)\|(.*)\|$", text, re.MULTILINE)
        documented = {name: row.rpartition("|")[2] for names, row in rows for name in re.findall(r"`(\w+)`", names)}
        fields = {name: each for name, each in model.model_fields.items() if not each.exclude}
        assert set(documented) == set(fields)
        for name, each in fields.items():
            if type(each.default) in (int, float):
                assert documented[name] == f"{each.default:,}", name


def test_every_status_and_metric_is_documented(door: Door) -> None:
    """Those that the gateway answers with, and those that it shows."""
    statuses = set(map(int, re.findall(r"\b[2-5]\d\d\b", PAGE.partition("## Answers")[2].partition("## Once")[0])))
    assert statuses | {500} == {200, 207} | set(PROBLEMS)
    text = door.client(door.gateway()).request("GET", "/metrics").body.decode()
    shown = set(re.findall(r"^# TYPE (headrace_gateway_\w+)", text, re.MULTILINE))
    section = PAGE.partition("|Metric|")[2]
    names = set()
    for cell in re.findall(r"^\|(`.*?)\|", section, re.MULTILINE):
        for name in re.findall(r"`(\w+)`", cell):
            names.add(name if name.startswith("headrace") else f"headrace_gateway{name}")
    assert {name for name in shown if not name.endswith("_created")} == names
