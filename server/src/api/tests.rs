//! The API by requests, without a listener.
