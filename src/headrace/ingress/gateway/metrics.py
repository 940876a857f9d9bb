"""What a gateway counts.

Owns its metrics. Labels are topics with a contract, outcomes and statuses: nothing that a client sends becomes one.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from headrace.ingress.gateway.answers import Answer

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class GatewayMetrics:
    """Used on the loop's thread, read on any."""

    def __init__(self, name: str) -> None:
        self.registry = CollectorRegistry()
        self._name = name
        self._gauges: dict[str, Gauge] = {}
        self._requests = Counter(
            "headrace_gateway_requests", "Requests answered.", ["name", "status"], registry=self.registry
        )
        self._records = Counter(
            "headrace_gateway_records",
            "Records by what became of them.",
            ["name", "topic", "outcome"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "headrace_gateway_request_seconds",
            "From the headers of a request to its answer.",
            ["name"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self._refused_connections = Counter(
            "headrace_gateway_connections_refused", "Connections above the limit.", ["name"], registry=self.registry
        )
        self.records_in = 0
        self.records_out = 0

    def answered(self, status: int, seconds: float) -> None:
        self._requests.labels(self._name, str(status)).inc()
        self._seconds.labels(self._name).observe(seconds)

    def recorded(self, topic: str, accepted: int, refused: int) -> None:
        """Records of one answer; those of a repeat count again."""
        self.records_in += accepted + refused
        self.records_out += accepted
        if accepted:
            self._records.labels(self._name, topic, "accepted").inc(accepted)
        if refused:
            self._records.labels(self._name, topic, "refused").inc(refused)

    def connection_refused(self) -> None:
        self._refused_connections.labels(self._name).inc()

    def gauge(self, name: str, told: str, value: Callable[[], float]) -> None:
        """A number that is looked up when somebody asks; of the last run of a gateway that runs again."""
        found = self._gauges.get(name)
        if found is None:
            found = self._gauges[name] = Gauge(name, told, ["name"], registry=self.registry)
        found.labels(self._name).set_function(value)


def counts_of(answer: Answer) -> tuple[int, int]:
    """How many records an answer says are accepted, and refused; from its first words alone."""
    head = answer.body[: answer.body.index(b',"records"')]
    accepted = int(head.rpartition(b'"accepted":')[2].partition(b",")[0])
    return accepted, int(head.rpartition(b'"refused":')[2])
