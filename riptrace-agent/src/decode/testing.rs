//! Builds records for tests.
