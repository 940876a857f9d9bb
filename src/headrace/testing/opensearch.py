"""One OpenSearch node on this machine, for tests and benchmarks.

`python -m headrace.testing.opensearch start|stop|status [--directory DIR]`, and the same as a library.

- It is OpenSearch itself, from the jars that `opensearch-pom.xml` names, without plugins but its HTTP server: no users,
  no TLS. `OpenSearchNode.java` beside this file starts it.
- It runs as our own user, root too: the check that forbids that belongs to its distribution.

It is made to be quick and small. It is no example for production.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from http.client import HTTPConnection, HTTPException
from importlib import resources
from pathlib import Path

from headrace.errors import Fault, HeadraceError
from headrace.testing.database_server import DatabaseServer
from headrace.testing.maven_jars import MavenJars

QUICK_OPTIONS = ("-Xms256m", "-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
"""For tests: it answers after 3 seconds, and has no compiler threads beside them."""
MEASURED_OPTIONS = ("-Xms1g", "-Xmx1g")
"""For a node that is measured."""
ANSWER_TIMEOUT_S = 2.0

SETTINGS: Mapping[str, str] = {
    "cluster.name": "headrace-test",
    "node.name": "test",
    "discovery.type": "single-node",
    "transport.type": "netty4",
    "http.type": "netty4",
    "network.host": "127.0.0.1",
    # Any free one: nobody connects to it.
    "transport.port": "0",
    # Small machines let no process map many files.
    "node.store.allow_mmap": "false",
    # A nearly full disk of the machine is not what is tested.
    "cluster.routing.allocation.disk.threshold_enabled": "false",
}


class OpenSearchError(HeadraceError):
    """The test node cannot be installed, started or stopped."""

    code = "testing.opensearch"
    fault = Fault.STOP


OPENSEARCH_JARS = MavenJars(
    name="opensearch",
    title="OpenSearch",
    error=OpenSearchError,
    address_variable="HEADRACE_TEST_OPENSEARCH",
    java_version_min=17,
    runs_source=True,
)


class OpenSearchServer(DatabaseServer):
    """A node with these options of Java's."""

    name, title, user, made = "opensearch", "OpenSearch", "opensearch", "made"
    stop_signals, kill_signal = (signal.SIGTERM, signal.SIGKILL), signal.SIGKILL
    error = OpenSearchError

    def __init__(self, java_options: Sequence[str]) -> None:
        self._java_options = java_options

    def check_programs(self) -> None:
        OPENSEARCH_JARS.check_programs()

    def making(self, data: Path, user: str | None) -> tuple[Sequence[str], str | None]:
        # It makes what it needs as it starts.
        return ["touch", str(data / self.made)], user

    def command(self, data: Path, port: int, settings: Mapping[str, str]) -> Sequence[str]:
        home = data.parent
        own = {"path.home": str(home), "path.data": str(data), "http.port": str(port)}
        given = [f"{name}={value}" for name, value in {**SETTINGS, **own, **settings}.items() if name != "port"]
        program = resources.files("headrace.testing").joinpath("OpenSearchNode.java")
        # Libraries that it unpacks, and problems that it logs, stay in its directory.
        places = [f"-Djava.io.tmpdir={home}", "-XX:-UsePerfData", "-Dorg.apache.logging.log4j.level=WARN"]
        java = [OPENSEARCH_JARS.java_command(), *self._java_options, *places]
        return [*java, "-cp", f"{OPENSEARCH_JARS.directory()}/*", str(program), *given]

    def answers(self, port: int) -> bool:
        """It listens once it has joined its cluster."""
        with suppress(OSError, HTTPException), closing(HTTPConnection("127.0.0.1", port, ANSWER_TIMEOUT_S)) as asked:
            asked.request("GET", "/")
            return asked.getresponse().status == 200
        return False

    def url(self, port: int) -> str:
        return f"http://127.0.0.1:{port}"

    def _user(self) -> str | None:
        # Another one could not read our cache of jars.
        return None


OPENSEARCH = OpenSearchServer(QUICK_OPTIONS)
missing_programs, main = OPENSEARCH.missing_programs, OPENSEARCH.main
start_opensearch, stop_opensearch, running_opensearch = OPENSEARCH.start, OPENSEARCH.stop, OPENSEARCH.running


if __name__ == "__main__":
    sys.exit(main())
