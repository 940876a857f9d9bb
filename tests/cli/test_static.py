"""Static membership of worker processes (`[engine] membership = "static"`)."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import pytest

from headrace.log.kafka import KafkaLog
from headrace.log.port import RebalanceListener
from headrace.workspace.slots import _hostname

from .conftest import Call
from .test_reset import Counting
from .test_run import Sensors, drained, running, until


@pytest.mark.kafka
@pytest.mark.slow
def test_a_worker_waits_for_its_name(
    tmp_path: Path, call: Call, kafka_bootstrap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after kill -9, its name is held by a session that is not over: it says so, and works once the name is free."""
    monkeypatch.setenv("KAFKA_BOOTSTRAP", kafka_bootstrap)
    folder = tmp_path / "sensors"
    assert call("init", str(folder)).code == 0
    shop = Counting(Sensors(folder, call), call)
    config = folder / "headrace.toml"
    config.write_text(config.read_text() + '\n[engine]\nmembership = "static"\n')
    group = f"{shop.name}.{shop.name}"
    with closing(KafkaLog(kafka_bootstrap)) as log:
        holder = log.consumer(group=group, instance=f"{group}.{_hostname()}-0")
        holder.subscribe([f"{shop.name}.in"], RebalanceListener(*([lambda partitions: None] * 3)))
        while not holder.assignment():
            holder.poll(1, 0.1)
        with running(folder, "run", "--env", "prod") as started:
            deadline = time.monotonic() + 120
            while "static member" not in (shop.component()["error"] or ""):
                assert time.monotonic() < deadline, shop.component()
                holder.poll(1, 0.1)
            assert shop.component()["state"] == "waiting"
            holder.close()
            until(lambda: shop.has_settled(1))
            assert drained(started) == 0
