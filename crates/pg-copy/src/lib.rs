//! A PostgreSQL connection for COPY at socket speed.
