"""Copies of local state: stored whole, found again, never in anybody's way."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from headrace.engine.snapshot_uploads import SnapshotUploads
from headrace.engine.snapshots import (
    PART_BYTES,
    ObjectSnapshots,
    SnapshotDamaged,
    SnapshotsInvalid,
    SnapshotsUnavailable,
    StatePlace,
    open_snapshots,
)

PLACE = StatePlace("prod", "orders", "totals", 3, "topic-A")
MADE_ANEW = StatePlace("prod", "orders", "totals", 3, "topic-B")
NEIGHBOUR = StatePlace("prod", "orders", "totals", 30, "topic-A")
S3_KEYS = {"region": "us-east-1", "access_key_id": "stand-in", "secret_access_key": "stand-in", "allow_http": "true"}


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    """A stand-in for S3: moto answers S3's requests in this process, from memory."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(params=["directory", "s3"])
def snapshots(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectSnapshots:
    """An empty store of each kind."""
    if request.param == "directory":
        return open_snapshots("copies", {}, tmp_path)
    endpoint, bucket = request.getfixturevalue("s3_endpoint"), f"bucket-{time.time_ns()}"
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="stand-in",
        aws_secret_access_key="stand-in",
    )
    client.create_bucket(Bucket=bucket)
    return open_snapshots(f"s3://{bucket}/some/prefix", {**S3_KEYS, "endpoint": endpoint}, tmp_path)


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """A local file of a few parts."""
    path = tmp_path / "3.state"
    path.write_bytes(bytes(range(256)) * (2 * PART_BYTES // 256 + 100))
    return path


def test_comes_back_as_it_was(snapshots: ObjectSnapshots, local: Path, tmp_path: Path) -> None:
    """The beginning of a file that has grown meanwhile comes back byte by byte; larger than a part too."""
    for length_bytes, number in ((17, 1), (2 * PART_BYTES + 1, 2)):
        snapshots.put(PLACE, local, length_bytes, number)
        info = snapshots.newest(PLACE)
        assert info is not None
        assert (info.number, info.length_bytes) == (number, length_bytes)
        snapshots.fetch(info, tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == local.read_bytes()[:length_bytes]


def test_newest_two_stay(snapshots: ObjectSnapshots, local: Path) -> None:
    """Older copies go, and those of the topic before it was made anew; 10 is newer than 9; a neighbour's stay."""
    snapshots.put(NEIGHBOUR, local, 5, 1)
    snapshots.put(MADE_ANEW, local, 5, 99)
    for number in (8, 9, 10):
        snapshots.put(PLACE, local, 5, number)
    newest = snapshots.newest(PLACE)
    assert newest is not None
    assert newest.number == 10
    assert sorted(info.number for info in snapshots._found(PLACE.parent)) == [9, 10]
    assert snapshots.newest(MADE_ANEW) is None
    assert snapshots.newest(NEIGHBOUR) is not None


def test_nothing_there(snapshots: ObjectSnapshots) -> None:
    """A place that never had a copy has none."""
    assert snapshots.newest(PLACE) is None


def test_cut_short_is_damaged(tmp_path: Path, local: Path) -> None:
    """A copy that lost its end is refused by its length, and leaves no file."""
    snapshots = open_snapshots("copies", {}, tmp_path)
    snapshots.put(PLACE, local, 1_000, 1)
    info = snapshots.newest(PLACE)
    assert info is not None
    stored = tmp_path / "copies" / info.name
    stored.write_bytes(stored.read_bytes()[:999])
    back = tmp_path / "back"
    with pytest.raises(SnapshotDamaged, match="has 999 bytes, not 1000"):
        snapshots.fetch(info, back)
    assert not list(tmp_path.glob("back*"))


def test_local_file_too_short(tmp_path: Path, local: Path) -> None:
    """What was promised and is not there is not stored."""
    snapshots = open_snapshots("copies", {}, tmp_path)
    with pytest.raises(SnapshotsUnavailable, match="ends at byte"):
        snapshots.put(PLACE, local, local.stat().st_size + 1, 1)
    assert snapshots.newest(PLACE) is None


def test_pruned_while_fetched(tmp_path: Path, local: Path) -> None:
    """A copy that went between finding and fetching is unavailable, not a failure of its own kind."""
    snapshots = open_snapshots("copies", {}, tmp_path)
    snapshots.put(PLACE, local, 10, 1)
    info = snapshots.newest(PLACE)
    assert info is not None
    (tmp_path / "copies" / info.name).unlink()
    with pytest.raises(SnapshotsUnavailable):
        snapshots.fetch(info, tmp_path / "back")


def test_s3_is_gone(tmp_path: Path, local: Path) -> None:
    """A store that does not answer is told in one line, soon, without its client's insides."""
    snapshots = open_snapshots("s3://b/p", {**S3_KEYS, "endpoint": "http://127.0.0.1:1"}, tmp_path)
    for call in (lambda: snapshots.newest(PLACE), lambda: snapshots.put(PLACE, local, 10, 1)):
        with pytest.raises(SnapshotsUnavailable, match=r"s3://b/p") as raised:
            call()
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "client", "says"),
    [("s3://bucket", {"nonsense": "1"}, "nonsense"), ("nowhere://bucket", {}, "nowhere")],
)
def test_cannot_be_used(tmp_path: Path, url: str, client: dict[str, str], says: str) -> None:
    """Settings that the store does not know, and stores that nobody knows, are refused when they are opened."""
    with pytest.raises(SnapshotsInvalid, match=says):
        open_snapshots(url, client, tmp_path)


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without obstore the error names the extra."""
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(SnapshotsInvalid, match=r"headrace\[object-store\]"):
        open_snapshots("copies", {}, tmp_path)


class _Held(ObjectSnapshots):
    """A store that waits until it is let go, or fails."""

    def __init__(self, snapshots: ObjectSnapshots) -> None:
        super().__init__(snapshots._store, snapshots._url)
        self.go, self.begun, self.fails = threading.Event(), threading.Event(), False

    def put_open(self, place: StatePlace, file: int, length_bytes: int, number: int) -> None:
        self.begun.set()
        assert self.go.wait(10)
        if self.fails:
            raise SnapshotsUnavailable("full")
        super().put_open(place, file, length_bytes, number)


@pytest.fixture
def held(tmp_path: Path) -> _Held:
    return _Held(open_snapshots("copies", {}, tmp_path))


def _until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not done():
        assert time.monotonic() < deadline, "it does not come to pass"
        time.sleep(0.005)


def test_newest_offer_is_sent(held: _Held, local: Path, tmp_path: Path) -> None:
    """Of the copies that wait only the newest is sent, whatever becomes of the file's name meanwhile."""
    uploads = SnapshotUploads(held, interval_s=60.0)
    uploads.offer(PLACE, local, 10, 1)
    assert held.begun.wait(10)
    for number in (2, 3):
        uploads.offer(PLACE, local, 10 + number, number)
    local.rename(tmp_path / "compacted")
    local.write_bytes(b"another")
    held.go.set()
    _until(lambda: uploads.totals.uploaded == 2)
    uploads.close()
    assert sorted(info.number for info in held._found(PLACE.parent)) == [1, 3]
    assert uploads.totals.uploaded_bytes == 10 + 13
    assert uploads.totals.failed == 0


def test_due_by_interval(held: _Held, local: Path) -> None:
    """First within an interval, then once per interval, and never the same commit twice."""
    now_s = [1_000.0]
    uploads = SnapshotUploads(held, interval_s=60.0, clock=lambda: now_s[0])
    held.go.set()
    assert not uploads.is_due(PLACE, 7)
    now_s[0] += 60
    assert uploads.is_due(PLACE, 7)
    uploads.offer(PLACE, local, 10, 7)
    assert not uploads.is_due(PLACE, 8)
    now_s[0] += 60
    assert not uploads.is_due(PLACE, 7)
    assert uploads.is_due(PLACE, 8)
    uploads.forget(PLACE)
    assert not uploads.is_due(PLACE, 8), "who comes back begins anew"
    uploads.close()


def test_failure_is_counted_and_tried_again(held: _Held, local: Path, tmp_path: Path) -> None:
    """A copy that could not be stored is due again with its commit; the thread goes on."""
    now_s = [0.0]
    uploads = SnapshotUploads(held, interval_s=60.0, clock=lambda: now_s[0])
    held.fails = True
    held.go.set()
    uploads.offer(PLACE, local, 10, 7)
    _until(lambda: uploads.totals.failed == 1)
    held.fails = False
    now_s[0] += 60
    assert uploads.is_due(PLACE, 7)
    uploads.offer(PLACE, local, 10, 7)
    _until(lambda: uploads.totals.uploaded == 1)
    uploads.offer(PLACE, tmp_path / "not there", 10, 8)
    assert uploads.totals.failed == 2
    uploads.close()


def test_close_drops_what_waits(held: _Held, local: Path) -> None:
    """An ending process sends what is on its way and nothing more."""
    uploads = SnapshotUploads(held, interval_s=60.0)
    uploads.offer(PLACE, local, 10, 1)
    assert held.begun.wait(10)
    uploads.offer(NEIGHBOUR, local, 10, 1)
    threading.Timer(0.05, held.go.set).start()
    uploads.close()
    uploads.close()
    uploads.offer(NEIGHBOUR, local, 10, 2)
    assert held.newest(PLACE) is not None
    assert held.newest(NEIGHBOUR) is None
