"""The embedded log: a partitioned, transactional log in one SQLite file."""

from headrace.log.embedded.log import EmbeddedLog

__all__ = ["EmbeddedLog"]
