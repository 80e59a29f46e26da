//! Events as text, in the form that Go developers know from Delve.
//!
//! Everything that comes from the traced program or its binary goes through `quote` or `plain`, so that no string of
//! it reaches the terminal as a command.

mod escape;
mod events;
mod story;
mod value;

pub use self::{
    events::{attached, budget, detached, error, event, hit, price, stats},
    story::{Story, uncertainty},
    value::{reason, value},
};

/// How text is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TextOptions {
    /// Seconds east of UTC of the reader's clock.
    pub utc_offset_seconds: i32,
    /// Whether the line of a hit names the host.
    pub show_host: bool,
    /// Characters of one variable's text; `None`: all.
    pub max_value_chars: Option<usize>,
}
