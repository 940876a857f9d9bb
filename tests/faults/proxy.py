"""A TCP proxy between workers and their broker, with a link that can fail.

Owns one listening port, every connection through it and the link's present weather. One thread of its own; the methods
may be called from any other and return once the change holds for all connections.

- `cut`: connections are refused, those that are open are reset.
- `slow`: each piece is late by `delay_s`, and no direction of a connection carries more than `bytes_per_s`.
- `half_open`: connections are accepted and stay, and what is sent is swallowed: in both directions, or in one.
- `hide_brokers`: answers to metadata requests keep their topics and name no broker, as those of a broker that has just
  started may do.
- `heal`: all is well for new connections. Those that lost bytes, or learned what is not so, are reset.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, Self

from tests.faults.kafka_frames import Frames

PIECE_BYTES = 64 * 1024
CALL_TIMEOUT_S = 10.0
NO_LINGER = struct.pack("ii", 1, 0)
"""A close without lingering sends a reset."""


@dataclass(frozen=True, slots=True)
class Weather:
    """How the link is."""

    is_cut: bool = False
    delay_s: float = 0.0
    bytes_per_s: float | None = None
    swallows_requests: bool = False
    swallows_answers: bool = False
    hides_brokers: bool = False


@dataclass(eq=False, slots=True)
class _Link:
    """One connection of a client, with the one to the broker behind it."""

    client: asyncio.StreamWriter
    broker: asyncio.StreamWriter | None = None
    frames: Frames = field(default_factory=Frames)
    is_spoilt: bool = False
    """It lost bytes, or told what is not so."""

    def reset(self) -> None:
        for writer in (self.client, self.broker):
            if writer is not None:
                with contextlib.suppress(OSError):
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
                writer.transport.abort()


class Proxy:
    """`with Proxy() as proxy: proxy.forward_to(...)`; `address` is known at once, so that a broker can tell it."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port: int = free.getsockname()[1]
        self.address = f"127.0.0.1:{self._port}"
        self._behind = ("127.0.0.1", 0)
        self._weather = Weather()
        self._links: set[_Link] = set()
        self._server: asyncio.Server | None = None
        self.accepted = 0
        """Connections so far."""
        self.hidden = 0
        """Answers whose brokers were taken out."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CALL_TIMEOUT_S)
        self._loop.close()

    # Weather

    def forward_to(self, address: str) -> None:
        """Where connections lead from now on."""
        host, port = address.rsplit(":", 1)
        self._behind = (host, int(port))

    def cut(self) -> None:
        self._change(Weather(is_cut=True))

    def slow(self, *, delay_s: float = 0.0, bytes_per_s: float | None = None) -> None:
        self._change(Weather(delay_s=delay_s, bytes_per_s=bytes_per_s))

    def half_open(self, *, requests: bool = True, answers: bool = True) -> None:
        """Swallow what workers ask, what the broker answers, or both."""
        self._change(Weather(swallows_requests=requests, swallows_answers=answers))

    def hide_brokers(self) -> None:
        """Connections are reset, so that every client asks for metadata anew."""
        self._change(Weather(hides_brokers=True))
        self.reset()

    def heal(self) -> None:
        self._change(Weather())

    def reset(self) -> None:
        """Reset the connections that are open now."""
        self._do(self._reset(lambda link: True))

    @property
    def weather(self) -> Weather:
        return replace(self._weather)

    def _change(self, weather: Weather) -> None:
        self._do(self._apply(weather))

    async def _apply(self, weather: Weather) -> None:
        was, self._weather = self._weather, weather
        if weather.is_cut:
            await self._close_port()
            await self._reset(lambda link: True)
        elif was.is_cut:
            await self._listen()
        if weather == Weather():
            await self._reset(lambda link: link.is_spoilt)

    # Connections

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", self._port, reuse_address=True)

    async def _close_port(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
            await asyncio.sleep(0)

    async def _stop(self) -> None:
        await self._close_port()
        await self._reset(lambda link: True)
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _reset(self, which: Callable[[_Link], bool]) -> None:
        for link in [link for link in self._links if which(link)]:
            link.reset()
        await asyncio.sleep(0)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(writer)
        self._links.add(link)
        self.accepted += 1
        try:
            await self._both_ways(link, reader)
        except OSError:
            pass  # Reset by one side or by the weather: the other side learns it below.
        finally:
            self._links.discard(link)
            link.reset()

    async def _both_ways(self, link: _Link, reader: asyncio.StreamReader) -> None:
        while self._weather.swallows_requests and link.broker is None:
            link.is_spoilt = True  # Nobody is connected behind: it must not wake up half-way.
            if not await reader.read(PIECE_BYTES):
                return
        behind, link.broker = await asyncio.open_connection(*self._behind)
        ways = [
            asyncio.ensure_future(self._way(link, reader, link.broker, is_request=True)),
            asyncio.ensure_future(self._way(link, behind, link.client, is_request=False)),
        ]
        try:
            done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in done:
                way.result()
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _way(
        self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_request: bool
    ) -> None:
        while piece := await reader.read(PIECE_BYTES):
            weather = self._weather
            if weather.swallows_requests if is_request else weather.swallows_answers:
                link.is_spoilt = True
                continue
            if weather.delay_s or weather.bytes_per_s:
                await asyncio.sleep(weather.delay_s + len(piece) / (weather.bytes_per_s or float("inf")))
            writer.write(self._seen(link, piece, is_request=is_request))
            await writer.drain()

    def _seen(self, link: _Link, piece: bytes, *, is_request: bool) -> bytes:
        """What is passed on of a piece. Frames are followed from the first byte of a connection, or not at all."""
        if is_request:
            link.frames.request(piece)
            return piece
        answer, hidden = link.frames.answer(piece, hides_brokers=self._weather.hides_brokers)
        self.hidden += hidden
        link.is_spoilt |= bool(hidden)
        return answer

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(CALL_TIMEOUT_S)
