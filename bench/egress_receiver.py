"""A receiver of rows as a process of its own: `python -m bench.egress_receiver ANSWER_MS`.

It prints its port and ends when its standard input does. What is posted is kept as it is and read only when its path
is asked with GET, so that the sender is what a run measures. A body is a row, or a row in each line.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import defaultdict

from aiohttp import web


class Receiver:
    """Bodies by path."""

    def __init__(self, answer_ms: int) -> None:
        self._answer_s = answer_ms / 1_000
        self._bodies: dict[str, list[bytes]] = defaultdict(list)

    async def take(self, request: web.Request) -> web.Response:
        self._bodies[request.path].append(await request.read())
        if self._answer_s:
            await asyncio.sleep(self._answer_s)
        return web.Response(status=204)

    async def tell(self, request: web.Request) -> web.Response:
        """How many rows came, and how many different ids."""
        ids = [json.loads(line)["id"] for body in self._bodies[request.path] for line in body.splitlines()]
        return web.json_response({"rows": len(ids), "ids": len(set(ids))})


async def main() -> None:
    receiver, application = Receiver(int(sys.argv[1])), web.Application()
    application.add_routes([web.post("/{path}", receiver.take), web.get("/{path}", receiver.tell)])
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main())
