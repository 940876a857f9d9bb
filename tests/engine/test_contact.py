"""When a worker's memory is not to be trusted: after a silence of the log, until it had time to hear what it lost."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any, cast

import pytest

from headrace.engine import worker
from headrace.engine.assembly import Assembly
from headrace.engine.committer import Committer
from headrace.engine.contact import DOUBT_S, SILENCE_MAX_S, Contact
from headrace.engine.orders import Orders, WorkerBusy
from headrace.log.embedded import EmbeddedLog
from tests.engine.test_worker import harness, large_orders, orders


def test_answers_of_the_log_keep_a_worker_sure() -> None:
    """A quiet worker is sure as long as the log answers it now and then."""
    contact = Contact(0.0)
    assert not contact.is_doubtful(None, SILENCE_MAX_S)
    assert not contact.is_doubtful(SILENCE_MAX_S, 2 * SILENCE_MAX_S)
    assert contact.is_doubtful(SILENCE_MAX_S, 2 * SILENCE_MAX_S + 0.1)


def test_after_a_silence_an_answer_is_not_enough() -> None:
    """The first answer is followed by a time of doubt, in which the group can tell the worker that it is no member."""
    contact = Contact(0.0)
    late = 10 * SILENCE_MAX_S
    assert contact.is_doubtful(1.0, late)
    assert contact.is_doubtful(late, late + 1)
    assert contact.is_doubtful(late, late + 1 + DOUBT_S - 0.1)
    assert not contact.is_doubtful(late, late + 1 + DOUBT_S)


def test_a_commit_ends_all_doubt() -> None:
    """The log takes no commit of a worker that lost its partitions."""
    contact = Contact(0.0)
    assert contact.is_doubtful(None, 100.0)
    contact.proved(101.0)
    assert not contact.is_doubtful(None, 101.0)


def test_a_commit_is_proof_as_of_its_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that is stopped between the log's answer and its own next step knows nothing of the time since."""
    jump_s, steady, stops = [0.0], worker.steady_clock(), threading.Event()
    monkeypatch.setattr(worker, "steady_clock", lambda: lambda: steady() + jump_s[0])
    commit = Committer.commit

    def stopped(self: Committer, *given: Any) -> Any:
        durable = commit(self, *given)
        if stops.is_set():
            jump_s[0] = 3 * SILENCE_MAX_S
        return durable

    monkeypatch.setattr(Committer, "commit", stopped)
    run, asked = harness(EmbeddedLog(tmp_path / "log.db"), large_orders), Orders()
    topic = next(each.topic for each in run.compiled.plan.outputs)
    with run.running(orders=asked) as running:
        run.publish("orders", orders(20))
        run.wait(running, lambda: len(run.records(topic)) > 0)
        assert asked.ask(lambda _: 1).result(10) == 1
        stops.set()
        run.publish("orders", orders(20, seed=2))
        run.wait(running, lambda: jump_s[0] > 0)
        with pytest.raises(WorkerBusy, match="the log was silent for long"):
            asked.ask(lambda _: 1).result(10)


def test_questions_are_refused_in_doubt() -> None:
    """Whoever waits is told at once, and may ask again."""
    orders = Orders()
    orders.open()
    parts = cast(Assembly, None)

    def ask() -> Future[Any]:
        return orders.ask(lambda _: 1)

    refused = ask()
    orders.answer(parts, in_doubt=True)
    with pytest.raises(WorkerBusy, match="the log was silent for long"):
        refused.result(0)
    answered = ask()
    orders.answer(parts)
    assert answered.result(0) == 1
