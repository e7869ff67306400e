//! Reads and writes pg_dump's custom archive format.
