//! What agent, server, page and command line say to each other: serde types with JSON schemas.
//!
//! Fields may be added; a field's meaning never changes. Every reader ignores fields that it does not know.

pub mod api;
pub mod batch;
pub mod clock;
pub mod control;
pub mod event;
pub mod evidence;
pub mod message;
pub mod number;
pub mod profile;
pub mod subject;
pub mod value;
