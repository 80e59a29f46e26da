//! What is asked of a location before there is a kernel side: what to show there, and what comes of planning it.

use super::{Expressions, ParsedExpr, edges::BuiltIn};
use crate::{
    binary::BinaryError,
    dwarf::DwarfError,
    expr::ExprError,
    plan::{
        CaptureLimits, SitePlan,
        captures::PlanError,
        path::PathExpression,
        sites::{LocationError, LocationRequest},
        types::RegistryError,
    },
};

/// What is wanted at a location.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Where.
    pub location: LocationRequest,
    /// Only these; none: every variable.
    pub captures: Vec<PathExpression>,
    /// Only hits for which this holds.
    pub when: Option<ParsedExpr>,
    /// What else is shown of a hit.
    pub expressions: Expressions,
    /// The package's variables too.
    pub globals: bool,
    /// The function's returns too.
    pub returns: bool,
    /// Arguments and receiver only.
    pub arguments_only: bool,
    /// How much is followed.
    pub limits: CaptureLimits,
    /// Which instruction of a line is armed.
    pub sites: SiteChoice,
    /// Its hits are edges (`edges::requests`), and those that are none are filtered.
    pub edge: Option<&'static BuiltIn>,
}

impl Wanted {
    /// Everything that is seen at a location, within the usual limits.
    #[must_use]
    pub fn at(location: LocationRequest) -> Self {
        Self {
            location,
            captures: Vec::new(),
            when: None,
            expressions: Expressions::default(),
            globals: false,
            returns: false,
            arguments_only: false,
            limits: CaptureLimits::default(),
            sites: SiteChoice::Best,
            edge: None,
        }
    }
}

/// Reads what `--capture` names: paths, which the kernel side follows, and expressions, which are computed of them.
///
/// # Errors
///
/// A text is neither.
pub fn parse_captures(texts: &[String]) -> Result<(Vec<PathExpression>, Vec<ParsedExpr>), ExprError> {
    let (mut paths, mut computed) = (Vec::new(), Vec::new());
    for text in texts {
        match PathExpression::parse(text) {
            Ok(path) => paths.push(path),
            Err(_) => computed.push(ParsedExpr::parse(text.trim())?),
        }
    }
    Ok((paths, computed))
}

/// Which instruction of a line is armed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SiteChoice {
    /// The best one of those that run exactly when the line's first one runs; where none is cheap, the branch that leads
    /// to the line. It traps whichever way it goes, so the tracepoint moves if it mostly goes elsewhere.
    #[default]
    Best,
    /// The best one of those that run exactly when the line's first one runs.
    NoBranch,
    /// The line's first one.
    LineStart,
}

impl SiteChoice {
    /// By the flag `--at-line-start`.
    #[must_use]
    pub const fn of_flag(at_line_start: bool) -> Self {
        if at_line_start { Self::LineStart } else { Self::Best }
    }
}

/// A location, planned.
#[derive(Clone, Debug)]
pub struct PlannedLocation {
    /// One plan a site.
    pub plans: Vec<SitePlan>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Why a location can't be planned.
#[derive(Debug, thiserror::Error)]
pub enum PlanFailure {
    /// It can't be bound.
    #[error(transparent)]
    Location(#[from] LocationError),
    /// Its variables can't be planned.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Debug data is broken.
    #[error(transparent)]
    Dwarf(#[from] DwarfError),
    /// Too many types.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The address is not in the file.
    #[error(
        "the address {address:#x} is not in the program's file; was it changed after it was linked (packed)?"
    )]
    NotInFile {
        /// The address.
        address: u64,
    },
    /// The condition can't be decided at a site.
    #[error("--when can't be decided at {place}: {reason}")]
    Condition {
        /// Where.
        place: String,
        /// Why.
        reason: String,
    },
    /// An expression can't be computed at a site.
    #[error("at {place}: {reason}")]
    Expression {
        /// Where.
        place: String,
        /// Why.
        reason: String,
    },
    /// Expressions need variables.
    #[error("--capture, --when and --message need debug data: {reason}")]
    NoVariables {
        /// Why there is none.
        reason: String,
    },
    /// Neither debug data nor the runtime's own table.
    #[error(transparent)]
    Binary(#[from] BinaryError),
    /// The image was never added.
    #[error("the binary is not known")]
    UnknownImage,
}
