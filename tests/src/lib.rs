//! Runs Go programs that print their own truth, traces them with the real `riptrace`, and compares.
//!
//! [`go`] builds the program in `fixtures/` for a version of Go and a way of building; [`fixture`] runs it and reads what
//! it prints; [`riptrace`] runs the product and reads its events; [`compare`] holds a captured value against the printed
//! one; [`truth`] puts these together for a whole run and counts what was exact. [`fleet`] runs a server with its broker
//! and agents; [`nats`] a broker alone, and a client of the agents' protocol; [`chain`] three services that know the causal order of what
//! they do; [`meter`] a service that knows how often it executed a line.

pub mod chain;
pub mod compare;
pub mod fixture;
pub mod fleet;
pub mod go;
pub mod meter;
pub mod nats;
pub mod output;
pub mod requirements;
pub mod riptrace;
pub mod truth;
