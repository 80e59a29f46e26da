//! RipTrace's central server: it tells agents what to trace, collects their hits, puts them into one strict order,
//! keeps and shows them.

pub mod accounting;
pub mod api;
pub mod audit;
pub mod broker;
pub mod clock;
pub mod clock_sync;
pub mod collect;
pub mod evidence;
pub mod fleet;
pub mod ident;
pub mod lease;
pub mod metrics;
pub mod nats;
pub mod order;
pub mod reconcile;
pub mod run;
pub mod session;
pub mod settings;
pub mod store;
pub mod watermark;

pub use riptrace_common::wire;
