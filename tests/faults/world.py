"""Faults of the world around the workers: the broker and the way to it.

Owns them as `Fault`s of scenes. Each returns when the world is well again; that the work is, says the scene's verdict.
"""

from __future__ import annotations

import random
import time

from headrace.testing.broker import stop_broker
from tests.faults.brokers import start_again
from tests.faults.proxy import Proxy
from tests.faults.scene import Fault, Scene

OUTAGE_S = 8.0
LONG_OUTAGE_S = 70.0
"""Longer than headrace repeats a call on the same client, and than any session and transaction lives."""
CUT_S = (1.0, 8.0)
"""Shorter and longer than a member's session, six seconds on our brokers."""
SLOW_S = 5.0
DELAY_S = 0.2
SLOW_BYTES_PER_S = 2_000_000
HALF_OPEN_S = (2.0, 12.0)
"""Up to more than one attempt of a call is given (`REQUEST_TIMEOUT_S`)."""
HIDDEN_S = 3.0


def restart(scene: Scene, *, hard: bool, away_s: float = 0.0) -> None:
    """The broker goes away, group and transaction coordinators included, and comes back as it was."""
    home = scene.resources["broker"]
    assert stop_broker(home, hard=hard)
    time.sleep(away_s)
    start_again(home)


def _proxy(scene: Scene) -> Proxy:
    proxy = scene.resources["proxy"]
    assert isinstance(proxy, Proxy)
    return proxy


def _until_healed(scene: Scene, seconds: float) -> None:
    time.sleep(seconds)
    _proxy(scene).heal()


def restart_clean(scene: Scene, _: random.Random) -> None:
    """SIGTERM: the broker says farewell."""
    restart(scene, hard=False)


def restart_hard(scene: Scene, _: random.Random) -> None:
    """kill -9: connections end in the middle of answers."""
    restart(scene, hard=True)


def outage(scene: Scene, random: random.Random) -> None:
    """Away for longer than a session."""
    restart(scene, hard=random.random() < 0.5, away_s=OUTAGE_S)


def long_outage(scene: Scene, _: random.Random) -> None:
    """Away for longer than anything waits."""
    restart(scene, hard=True, away_s=LONG_OUTAGE_S)


def cut_link(scene: Scene, random: random.Random) -> None:
    """Connections are reset and refused."""
    _proxy(scene).cut()
    _until_healed(scene, random.uniform(*CUT_S))


def reset_connections(scene: Scene, random: random.Random) -> None:
    """Every connection is reset, and new ones are taken at once."""
    for _ in range(5):
        _proxy(scene).reset()
        time.sleep(random.uniform(0.1, 0.6))


def slow_link(scene: Scene, _: random.Random) -> None:
    """Every piece is late, and few fit through at once."""
    _proxy(scene).slow(delay_s=DELAY_S, bytes_per_s=SLOW_BYTES_PER_S)
    _until_healed(scene, SLOW_S)


def half_open(scene: Scene, random: random.Random) -> None:
    """Nothing comes through, and nobody says so."""
    _proxy(scene).half_open()
    _until_healed(scene, random.uniform(*HALF_OPEN_S))


def answers_lost(scene: Scene, random: random.Random) -> None:
    """What workers ask is done, a commit too, and they are never told."""
    _proxy(scene).half_open(requests=False)
    _until_healed(scene, random.uniform(*HALF_OPEN_S))


def requests_lost(scene: Scene, random: random.Random) -> None:
    """What workers ask never arrives."""
    _proxy(scene).half_open(answers=False)
    _until_healed(scene, random.uniform(*HALF_OPEN_S))


def no_brokers(scene: Scene, _: random.Random) -> None:
    """Metadata without brokers, as a broker gives it that has just started (librdkafka #5301)."""
    _proxy(scene).hide_brokers()
    _until_healed(scene, HIDDEN_S)


_BROKER, _PROXY = frozenset({"broker"}), frozenset({"proxy"})

WORLD_FAULTS = (
    Fault("broker restarts, clean", restart_clean, _BROKER, least_s=10.0),
    Fault("broker restarts, kill -9", restart_hard, _BROKER, least_s=10.0),
    Fault("broker away", outage, _BROKER, least_s=10.0),
    Fault("link cut", cut_link, _PROXY, least_s=6.0),
    Fault("connections reset", reset_connections, _PROXY),
    Fault("link slow", slow_link, _PROXY),
    Fault("link half-open", half_open, _PROXY, least_s=10.0),
    Fault("answers lost", answers_lost, _PROXY, least_s=10.0),
    Fault("requests lost", requests_lost, _PROXY, least_s=10.0),
    Fault("metadata without brokers", no_brokers, _PROXY, least_s=6.0),
)
