"""headrace egress into Redis."""

from headrace_redis.connector import RedisConnector
from headrace_redis.options import RedisOptions

__all__ = ["RedisConnector", "RedisOptions"]
