"""The log port over Apache Kafka, by way of `confluent-kafka`.

`KafkaLog` is all that other rooms use.
"""

from headrace.log.kafka.log import KafkaLog
from headrace.log.kafka.settings import SettingsInvalid

__all__ = ["KafkaLog", "SettingsInvalid"]
