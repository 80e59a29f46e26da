//! Names of things, one type each, so that none is taken for another. On the wire they are plain strings.

use std::{fmt, sync::Arc};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Characters of an id at the most; longer ones are refused where they come in.
pub const MAX_ID_CHARS: usize = 128;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
        #[serde(transparent)]
        pub struct $name(pub Arc<str>);

        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Letters, digits, `_`, `-`, `.`, `:`; not empty, not longer than [`MAX_ID_CHARS`].
            #[must_use]
            pub fn is_valid(&self) -> bool {
                let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.:".contains(&byte);
                !self.0.is_empty() && self.0.len() <= MAX_ID_CHARS && self.0.bytes().all(allowed)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(Arc::from(text))
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(Arc::from(text))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }
    )*};
}

ids! {
    /// A tracepoint: one location that somebody wants traced, on however many hosts.
    TracepointId;
    /// A session: a set of tracepoints and their hits.
    SessionId;
    /// One run of an agent (or of `riptrace probe`).
    AgentId;
    /// Who set a tracepoint: a server (`server`) or another client. Everyone reconciles only what is theirs.
    Owner;
}
