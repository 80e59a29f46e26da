//! How events are shown: text for people, JSON lines for programs. Pure: nothing is printed here.

pub mod json;
pub mod text;

#[cfg(test)]
mod tests;
