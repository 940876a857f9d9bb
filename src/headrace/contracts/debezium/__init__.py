"""Debezium's topics as input: what its connectors write, as one model of a change."""
