//! Debug data of real Go programs, compiled here with several versions of Go. What is expected is read from the
//! program's source, never from another debugger.

pub(super) mod fixture;
mod functions;
mod hostile;
mod measure;
mod types;
mod variables;
