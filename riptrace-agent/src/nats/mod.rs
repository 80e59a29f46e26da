//! NATS: the connection, publishing with acknowledgements, answering requests. Nothing here knows what is traced.

pub mod connection;
pub mod pages;
pub mod publish;
pub mod service;
