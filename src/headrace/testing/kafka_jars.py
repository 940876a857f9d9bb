"""The jars of the test broker, fetched once: `kafka-pom.xml` beside this file names them."""

from __future__ import annotations

from headrace.errors import Fault, HeadraceError
from headrace.testing.maven_jars import MavenJars


class BrokerError(HeadraceError):
    """The test broker cannot be installed, started or stopped."""

    code = "testing.broker"
    fault = Fault.STOP


KAFKA_JARS = MavenJars(
    name="kafka",
    title="Kafka",
    error=BrokerError,
    address_variable="HEADRACE_TEST_KAFKA",
    # Kafka 4's broker is compiled for it.
    java_version_min=17,
)
kafka_version, cache_directory, jar_directory = KAFKA_JARS.version, KAFKA_JARS.cache_directory, KAFKA_JARS.directory
java_command, missing_programs = KAFKA_JARS.java_command, KAFKA_JARS.missing_programs
