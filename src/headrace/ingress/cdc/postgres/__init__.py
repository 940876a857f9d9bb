"""Change data capture from PostgreSQL, by logical replication."""
