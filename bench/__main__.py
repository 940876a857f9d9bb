"""The benchmarks' command line."""

from __future__ import annotations

import argparse
import sys

import structlog

from bench import batches, capture, egress, engine, gateway
from bench.nexmark import benchmark as nexmark
from bench.peers import benchmark as peers
from bench.recovery import benchmark as recovery
from bench.regress import benchmark as regress


def main() -> int:
    """Run the chosen benchmark; 1 when an answer was wrong."""
    # Standard output holds results alone.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    parser = argparse.ArgumentParser(prog="python -m bench", description="Benchmarks of headrace.")
    commands = parser.add_subparsers(dest="command", required=True)
    engine.add_arguments(commands.add_parser("engine", help="filter and tumbling sums, in process and over Kafka"))
    batches.add_arguments(commands.add_parser("batches", help="what a batch costs the engine, by size and stage"))
    capture.add_arguments(commands.add_parser("capture", help="database to change topics, beside Debezium's engine"))
    egress.add_arguments(commands.add_parser("egress", help="a topic into each connector's target, beside others"))
    gateway.add_arguments(commands.add_parser("gateway", help="records over HTTP into a topic: rate, latency, memory"))
    nexmark.add_arguments(commands.add_parser("nexmark", help="the queries of an auction house, each answer checked"))
    recovery.add_arguments(commands.add_parser("recovery", help="restore, failover, latency, scaling, memory"))
    peers.add_arguments(commands.add_parser("peers", help="headrace and its peers in turn on one broker"))
    regress.add_arguments(commands.add_parser("regress", help="the working tree against a revision"))
    arguments = parser.parse_args()
    runs = {
        "engine": engine.run,
        "batches": batches.run,
        "capture": capture.run,
        "egress": egress.run,
        "gateway": gateway.run,
        "nexmark": nexmark.run,
        "recovery": recovery.run,
        "peers": peers.run,
        "regress": regress.run,
    }
    return runs[arguments.command](arguments)


if __name__ == "__main__":
    sys.exit(main())
