//! Options that say what is not copied.

use std::{fs, io::Read as _, path::PathBuf, sync::Arc};

use clap::Args;

use super::{Exit, Failure};
use crate::redact::{Policy, Rules};

/// Largest policy file.
const MAX_POLICY_BYTES: u64 = 1 << 20;

/// Options of the commands that capture values.
#[derive(Debug, Args)]
pub(super) struct RedactionArguments {
    /// Never copy values of this name out of the process (repeatable): a variable, a field or a type, with * and ?, in any
    /// case: salary, *pin, http.Cookie.Value, auth.Session (see docs/redaction.md).
    #[arg(long, value_name = "PATTERN")]
    redact: Vec<String>,

    /// The same from a TOML file: redact = [..]; allow = [..] for exceptions; `map_keys_allow` = [..] for headers, form
    /// fields and query values that may be copied.
    #[arg(long, value_name = "PATH")]
    redact_file: Option<PathBuf>,

    /// Copy passwords, tokens, keys, headers, cookies and the like too, which the default rules forbid.
    #[arg(long)]
    no_redact_defaults: bool,
}

impl RedactionArguments {
    /// The rules that hold.
    pub(super) fn rules(&self) -> Result<Arc<Rules>, Failure> {
        let policy = self.redact_file.as_ref().map(policy).transpose()?;
        Rules::new(!self.no_redact_defaults, &self.redact, policy.as_ref())
            .map(Arc::new)
            .map_err(|error| Failure::new(Exit::Usage, error))
    }
}

fn policy(path: &PathBuf) -> Result<Policy, Failure> {
    let fail = |reason: String| {
        Failure::new(Exit::Usage, format!("cannot use the policy {}: {reason}", path.display()))
    };
    let mut text = String::new();
    let file = fs::File::open(path).map_err(|error| fail(error.to_string()))?;
    file.take(MAX_POLICY_BYTES + 1).read_to_string(&mut text).map_err(|error| fail(error.to_string()))?;
    if text.len() as u64 > MAX_POLICY_BYTES {
        return Err(fail(format!("it is larger than {MAX_POLICY_BYTES} bytes")));
    }
    Policy::parse(&text).map_err(|error| fail(error.to_string()))
}
