"""`headrace rewind`: with a process at work, without one, and where it is refused."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pytest
from tests.egress.memory_target import MemoryConnector, Target

from headrace.egress.sdk import PositionMoved
from headrace.log.port import RebalanceListener, TopicPartition
from headrace.workspace import egress_trials
from headrace.workspace.control import DesiredState, open_control
from headrace.workspace.environment import connect
from headrace.workspace.load import load
from headrace.workspace.rewind import EgressRunning, Place, plan_rewind, rewind

from .conftest import Call
from .test_json_shapes import differences, shape, shown
from .test_run import drained, running, until

EGRESS = """
topic: readings
connector: {connector}
mode: {mode}
options: {options}
columns: [sensor, celsius, measured_at]
"""
READINGS = 240


@pytest.fixture
def sensors(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace made by `init`, whose sample has an egress; the test runs inside it."""
    monkeypatch.chdir(tmp_path)
    assert call("init", "sensors").code == 0
    monkeypatch.chdir("sensors")
    folder = tmp_path / "sensors"
    (folder / "egress").mkdir()
    write_egress(folder)
    assert call("apply").code == 0
    return folder


def write_egress(
    folder: Path, mode: str = "append", connector: str = "duckdb", options: str = "{path: rooms.duckdb, table: rooms}"
) -> None:
    text = EGRESS.format(mode=mode, connector=connector, options=options)
    (folder / "egress" / "rooms.yaml").write_text(text)


def rows() -> int:
    """Of the target."""
    if not Path("rooms.duckdb").exists():
        return 0
    try:
        with duckdb.connect("rooms.duckdb", read_only=True) as connection:
            return int(connection.execute("SELECT count(*) FROM rooms").fetchall()[0][0])
    except duckdb.Error:
        # Not made yet, or just being written.
        return -1


def ends(folder: Path) -> dict[int, int]:
    loaded = load(folder)
    with connect(loaded.file, loaded.contracts, None) as environment, closing(environment.log.admin()) as admin:
        partitions = admin.topics()["readings"].partitions
        found = admin.end_offsets([TopicPartition("readings", each) for each in range(partitions)])
    return {each.partition: end for each, end in found.items() if end}


def component(call: Call) -> dict[str, Any]:
    (found,) = [each for each in call("status", "--json").json["components"] if each["name"] == "rooms"]
    return dict(found)


def delivered(call: Call, expected: int) -> None:
    """Run the egress until the target has so many rows."""
    with running(Path(), "run", "rooms") as started:
        until(lambda: rows() == expected)
        assert drained(started) == 0


def test_a_paused_egress_is_set_back_and_delivers_again(call: Call, sensors: Path) -> None:
    """Refused while it runs; paused it is rewound in its target, stays paused, and resumed it adds every row again."""
    with running(sensors, "run", "rooms") as started:
        until(lambda: rows() == READINGS)
        refused = call("rewind", "rooms", "--to-beginning")
        assert (refused.code, "workspace.egress_running" in refused.err) == (1, True)
        assert "headrace pause rooms" in refused.err
        assert call("pause", "rooms").code == 0
        answer = call("rewind", "rooms", "--to-beginning", "--json")
        assert answer.code == 0, answer.err
        told = answer.json
        assert differences(shape(shown("rewind")), shape(told)) == []
        assert (told["again"], told["skipped"], told["done"], told["desired"]) == (READINGS, 0, True, "paused")
        assert {each["partition"]: each["before"] for each in told["positions"]} == ends(sensors)
        assert {each["after"] for each in told["positions"]} == {0}
        until(lambda: component(call)["state"] == "paused")
        assert component(call)["lag_records"] == READINGS
        assert rows() == READINGS
        assert call("resume", "rooms").code == 0
        until(lambda: rows() == 2 * READINGS)
        until(lambda: component(call)["lag_records"] == 0)
        assert drained(started) == 0


def test_an_egress_that_runs_nowhere(call: Call, sensors: Path) -> None:
    """Ahead of everything before it ever ran, back to a time and to offsets: what the next run delivers is that."""
    text = ",".join(f"{partition}={end}" for partition, end in ends(sensors).items())
    dry = call("rewind", "rooms", "--to-offset", text, "--dry-run").out
    assert "what is skipped is not delivered, and is no dead letter" in dry
    assert not Path("rooms.duckdb").exists()
    answer = call("rewind", "rooms", "--to-offset", text)
    assert "It is to be running, as before." in answer.out, answer.err
    assert "every partition is there already" in call("rewind", "rooms", "--to-offset", text).out
    assert call("rewind", "rooms", "--to-time", "2100-01-01", "--json").json["positions"] == []
    (partition, end), *_ = ends(sensors).items()
    told = call("rewind", "rooms", "--to-offset", f"{partition}={end - 3}").out
    assert f"position readings[{partition}]: {end} -> {end - 3} (3 again)" in told
    assert "rows come again: append adds them a second time" in told
    delivered(call, 3)
    assert call("rewind", "rooms", "--to-time", "1970-01-02", "--json").json["again"] == READINGS
    delivered(call, READINGS + 3)


def test_places_that_are_not_there(call: Call, sensors: Path) -> None:
    """Each with what to write instead; nothing is ordered."""
    (partition, end), *_ = ends(sensors).items()
    for words, said in (
        (["--to-offset", f"{partition}={end + 1}"], f"give one from 0 to {end}"),
        (["--to-offset", "99=0"], "has no partition 99"),
        (["--to-offset", "a=b"], "write partition=offset"),
        (["--to-offset", str(10**9)], "is not there"),
        (["--to-time", "latest"], "is no time"),
        (["--to-time", "soon"], "workspace.start_invalid"),
    ):
        refused = call("rewind", "rooms", *words)
        assert (refused.code, said in " ".join(refused.err.split())) == (1, True), refused.err
    assert "workspace.unknown_name" in call("rewind", "room", "--to-beginning").err
    assert call("rewind", "rooms").code == 2
    assert call("rewind", "rooms", "--to-beginning", "--to-offset", "0").code == 2
    assert component(call)["desired"] == "running"


def test_positions_that_cannot_be_set(call: Call, sensors: Path) -> None:
    """Files are named by their offsets: refused, with another way."""
    write_egress(sensors, connector="parquet", options="{path: files}")
    refused = call("rewind", "rooms", "--to-beginning")
    assert (refused.code, "workspace.rewind_refused" in refused.err) == (1, True)
    assert "another `name:`" in refused.err


def test_a_target_without_positions_is_rewound_in_its_group(
    call: Call, sensors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The group's offsets are all there is; the keyed modes say what comes."""
    target = Target(atomic=False, refuses_stale=True)
    monkeypatch.setattr(egress_trials, "load_connector", lambda name, where: MemoryConnector(target))
    write_egress(sensors, mode="upsert", options="{}")
    place = ",".join(f"{partition}=5" for partition in ends(sensors))
    assert call("rewind", "rooms", "--to-offset", place, "--json").json["skipped"] == 5 * len(ends(sensors))
    back = call("rewind", "rooms", "--to-beginning", "--json").json
    assert {each["before"] for each in back["positions"]} == {5}
    assert back["meaning"] == ["rows are written again by key; one older than what the target holds of its key is not"]
    target.refuses_stale = False
    call("rewind", "rooms", "--to-offset", place)
    assert "until it has caught up the target shows older rows" in call("rewind", "rooms", "--to-beginning").out
    assert target.calls == []


def test_on_a_terminal_it_asks(call: Call, sensors: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No: nothing moves; `--yes` does not ask."""
    delivered(call, READINGS)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    asked: list[str] = []

    def no(question: str, **_: Any) -> None:
        asked.append(question)
        raise KeyboardInterrupt

    monkeypatch.setattr("typer.confirm", no)
    assert call("rewind", "rooms", "--to-beginning").code == 130
    assert asked == ["Rewind in environment 'dev'?"]
    assert call("rewind", "rooms", "--to-beginning", "--yes", "--json").json["again"] == READINGS
    assert len(asked) == 1


def test_a_target_that_moved_since_is_left_alone(sensors: Path) -> None:
    """Somebody delivered between the plan and the answer: `PositionMoved`, and the egress is wanted as before."""
    loaded = load(sensors)
    with connect(loaded.file, loaded.contracts, None) as environment:
        ahead = plan_rewind(loaded, environment, "rooms", Place.parse(None, _all(sensors)))
        rewind(loaded, environment, ahead)
        with pytest.raises(PositionMoved):
            rewind(loaded, environment, ahead)
        with open_control(environment) as control:
            assert control.desired("egress", "rooms").state is DesiredState.RUNNING


def test_members_that_do_not_leave_stop_it(sensors: Path) -> None:
    """A paused egress on a machine that does not answer: told after a while, nothing moved, paused as before."""
    loaded = load(sensors)
    with connect(loaded.file, loaded.contracts, None) as environment:
        planned = plan_rewind(loaded, environment, "rooms", Place.parse(None, _all(sensors)))
        with open_control(environment) as control:
            control.set_desired("egress", "rooms", DesiredState.PAUSED)
        with closing(environment.log.consumer(group=planned.group)) as member:
            member.subscribe(["readings"], RebalanceListener(lambda _: None, lambda _: None, lambda _: None))
            while not member.assignment():
                member.poll(1, 0.1)
            member.pause(sorted(member.assignment()))
            said: list[str] = []
            with pytest.raises(EgressRunning, match=r"has members 0\.5 s after"):
                rewind(loaded, environment, planned, tell=said.append, stop_timeout_s=0.5)
        assert said == ["waiting until the workers of 'rooms' have left"]
        assert not Path("rooms.duckdb").exists()
        with open_control(environment) as control:
            assert control.desired("egress", "rooms").state is DesiredState.PAUSED


def _all(folder: Path) -> str:
    return ",".join(f"{partition}={end}" for partition, end in ends(folder).items())
