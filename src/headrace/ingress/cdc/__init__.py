"""Change data capture: changes of a database as Debezium-compatible envelopes."""
