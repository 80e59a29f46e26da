//! Package variables and named constants.

use std::sync::Arc;

/// A named constant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedConstant {
    /// Name with its package (`main.Busy`).
    pub name: Arc<str>,
    /// Its value; unsigned types are to be read as the same bits.
    pub value: i64,
}
