//! Helpers for tests on real servers.
