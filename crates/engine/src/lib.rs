//! Plans, dumps, seals and exports backups of a PostgreSQL server.
