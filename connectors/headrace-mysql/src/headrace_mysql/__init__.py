"""headrace egress into MySQL and MariaDB."""

from headrace_mysql.connector import MysqlConnector
from headrace_mysql.options import MysqlOptions

__all__ = ["MysqlConnector", "MysqlOptions"]
