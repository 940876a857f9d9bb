"""The proxy itself: a link that fails on command, so that a fault test tests a fault."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from tests.faults.kafka_frames import Frames, without_brokers
from tests.faults.proxy import Proxy

SILENCE_S = 0.3


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """Before a server that answers what it is sent."""
    with socket.create_server(("127.0.0.1", 0)) as server, Proxy() as proxy:
        threading.Thread(target=_echo, args=(server,), daemon=True).start()
        proxy.forward_to(f"127.0.0.1:{server.getsockname()[1]}")
        yield proxy


def _echo(server: socket.socket) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        threading.Thread(target=_answer, args=(connection,), daemon=True).start()


def _answer(connection: socket.socket) -> None:
    with connection:
        try:
            while piece := connection.recv(65536):
                connection.sendall(piece)
        except OSError:
            return


def frame(text: bytes) -> bytes:
    """A frame whose first eight bytes are no request for metadata."""
    body = struct.pack(">hhi", 0, 0, 1) + text
    return struct.pack(">i", len(body)) + body


def connected(proxy: Proxy) -> socket.socket:
    host, port = proxy.address.split(":")
    return socket.create_connection((host, int(port)), timeout=5)


def asked(connection: socket.socket, text: bytes = b"hello") -> bytes:
    """What comes back."""
    connection.sendall(frame(text))
    return connection.recv(1000)


def test_a_healthy_link_carries_and_a_cut_one_refuses_and_resets(proxy: Proxy) -> None:
    """An open connection is reset, a new one refused, and all is well after the cure."""
    with connected(proxy) as connection:
        assert asked(connection) == frame(b"hello")
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    with pytest.raises(ConnectionRefusedError):
        connected(proxy)
    proxy.heal()
    with connected(proxy) as connection:
        assert asked(connection) == frame(b"hello")


@pytest.mark.parametrize("ways", [{}, {"answers": False}, {"requests": False}])
def test_a_half_open_link_swallows_and_is_reset_by_the_cure(proxy: Proxy, ways: dict[str, bool]) -> None:
    """Both sides stay connected and nothing comes, on old connections and new ones; the cure leaves no half frames."""
    with connected(proxy) as old:
        assert asked(old) == frame(b"hello")
        proxy.half_open(**ways)
        with connected(proxy) as new:
            for connection in (old, new):
                connection.settimeout(SILENCE_S)
                with pytest.raises(TimeoutError):
                    asked(connection)
            proxy.heal()
            for connection in (old, new):
                connection.settimeout(5)
                with pytest.raises(ConnectionResetError):
                    connection.recv(1)


def test_a_slow_link_is_late_and_whole(proxy: Proxy) -> None:
    """The delay counts both ways; what comes is what was sent."""
    proxy.slow(delay_s=0.1, bytes_per_s=1_000_000)
    with connected(proxy) as connection:
        began_s = time.monotonic()
        assert asked(connection) == frame(b"hello")
        assert time.monotonic() - began_s >= 0.2


def test_metadata_loses_its_brokers_and_nothing_else() -> None:
    """Of a plain and of a flexible version, split over pieces; other answers pass as they are."""
    plain = struct.pack(">ii", 7, 1) + struct.pack(">i", 5) + struct.pack(">h", 4) + b"host" + struct.pack(">i", 9092)
    assert without_brokers(plain + b"rest", 0) == struct.pack(">ii", 7, 0) + b"rest"
    broker = struct.pack(">i", 1) + b"\x05host" + struct.pack(">i", 9092) + b"\x00\x00"
    flexible = struct.pack(">i", 7) + b"\x00" + struct.pack(">i", 0) + b"\x02" + broker
    frames = Frames()
    frames.request(struct.pack(">ihhi", 8, 3, 12, 7))
    answer = struct.pack(">i", len(flexible) + 4) + flexible + b"rest"
    assert frames.answer(answer[:10], hides_brokers=True) == (b"", 0)
    expected = flexible[: 4 + 1 + 4] + b"\x01rest"
    assert frames.answer(answer[10:] + frame(b"other"), hides_brokers=True) == (
        struct.pack(">i", len(expected)) + expected + frame(b"other"),
        1,
    )
