//! Which server the commands over the fleet talk to.

use clap::Args;

use super::{Exit, Failure};
use crate::client::{Client, ClientError, DEFAULT_SERVER};
use riptrace_common::wire::message::ErrorCode;

/// Which server.
#[derive(Clone, Debug, Args)]
pub struct ServerArguments {
    /// Address of the server.
    #[arg(long, value_name = "URL", env = "RIPTRACE_SERVER", default_value = DEFAULT_SERVER)]
    server: String,

    /// Token, where the server wants one.
    #[arg(long, value_name = "TOKEN", env = "RIPTRACE_TOKEN", hide_env_values = true)]
    token: Option<String>,
}

impl ServerArguments {
    /// The server; nothing is asked yet.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::new(&self.server, self.token.clone())
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let exit = match error.code() {
            Some(ErrorCode::BadRequest) => Exit::Usage,
            Some(ErrorCode::NotFound | ErrorCode::Unbound) => Exit::Unbound,
            Some(ErrorCode::Forbidden) => Exit::Unable,
            _ => Exit::Failure,
        };
        Self::new(exit, error)
    }
}
