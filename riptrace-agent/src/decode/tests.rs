//! Decoding against records that are built by hand.

mod displays;
mod maps;
mod robust;
mod values;
