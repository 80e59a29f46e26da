//! How a program gets to its broker: addresses, who it is, TLS, and coming back after the broker was away.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use async_nats::{Client, ConnectOptions, Event, ServerAddr};
use tokio::sync::watch;

/// The first pause before another attempt to connect; it doubles with each, up to [`MAX_RECONNECT_DELAY`].
const FIRST_RECONNECT_DELAY: Duration = Duration::from_millis(50);
/// The longest pause.
const MAX_RECONNECT_DELAY: Duration = Duration::from_secs(4);
/// How long one attempt may take.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(5);
/// Without a word from the broker for twice this long, the connection counts as broken.
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// Where the broker is, and who asks.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ConnectionSettings {
    /// Addresses of servers, `nats://host:4222` or `tls://…`; the first that answers is taken.
    pub urls: Vec<String>,
    /// A credentials file (JWT and seed), as `nsc` makes it.
    pub credentials_file: Option<PathBuf>,
    /// A file with an NKEY seed.
    pub nkey_file: Option<PathBuf>,
    /// User name.
    pub user: Option<String>,
    /// Its password.
    pub password: Option<String>,
    /// Certificates of authorities that are trusted beside the system's.
    pub tls_ca: Option<PathBuf>,
    /// This side's certificate.
    pub tls_certificate: Option<PathBuf>,
    /// Its key.
    pub tls_key: Option<PathBuf>,
    /// Refuse a connection without TLS.
    pub tls_required: bool,
}

impl std::fmt::Debug for ConnectionSettings {
    /// Without the password.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("ConnectionSettings")
            .field("urls", &self.urls)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// Why no connection can be tried at all. That the broker can't be reached is no error: it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// An address is none.
    #[error(
        "{url:?} is not the address of a NATS server ({source}); write it like nats://broker.example:4222"
    )]
    Url {
        /// What was given.
        url: String,
        /// What is wrong.
        source: io::Error,
    },
    /// A file can't be read.
    #[error("cannot read {what} {}: {source}", path.display())]
    File {
        /// What it is for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The credentials are not in their form.
    #[error("{} holds no NATS credentials: {source}", path.display())]
    Credentials {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
    /// The client refused.
    #[error("cannot connect to {urls}: {source}")]
    Client {
        /// The addresses.
        urls: String,
        /// Why.
        source: async_nats::ConnectError,
    },
}

/// Connects, and stays connected: it returns at once, attempts go on for as long as the client lives. `connected` says
/// how it stands.
///
/// # Errors
///
/// The settings make no sense.
pub async fn connect(
    settings: &ConnectionSettings,
    name: &str,
    connected: watch::Sender<bool>,
) -> Result<Client, ConnectionError> {
    let mut addresses = Vec::with_capacity(settings.urls.len());
    for url in &settings.urls {
        let address: Result<ServerAddr, io::Error> = url.parse();
        addresses.push(address.map_err(|source| ConnectionError::Url { url: url.clone(), source })?);
    }
    let options = options(settings)?
        .name(name)
        .retry_on_initial_connect()
        .connection_timeout(CONNECTION_TIMEOUT)
        .ping_interval(PING_INTERVAL)
        .reconnect_delay_callback(reconnect_delay)
        .event_callback(move |event| {
            note(&event, &connected);
            std::future::ready(())
        });
    options
        .connect(addresses)
        .await
        .map_err(|source| ConnectionError::Client { urls: settings.urls.join(", "), source })
}

fn options(settings: &ConnectionSettings) -> Result<ConnectOptions, ConnectionError> {
    let mut options = ConnectOptions::new();
    if let Some(path) = &settings.credentials_file {
        let text = read("the credentials file", path)?;
        options = options
            .credentials(&text)
            .map_err(|source| ConnectionError::Credentials { path: path.clone(), source })?;
    }
    if let Some(path) = &settings.nkey_file {
        options = options.nkey(read("the NKEY seed", path)?.trim().to_owned());
    }
    if let Some(user) = &settings.user {
        options = options.user_and_password(user.clone(), settings.password.clone().unwrap_or_default());
    }
    if let Some(path) = &settings.tls_ca {
        read("the TLS authorities", path)?;
        options = options.add_root_certificates(path.clone());
    }
    if let (Some(certificate), Some(key)) = (&settings.tls_certificate, &settings.tls_key) {
        read("the TLS certificate", certificate)?;
        read("the TLS key", key)?;
        options = options.add_client_certificate(certificate.clone(), key.clone());
    }
    Ok(options.require_tls(settings.tls_required))
}

/// A file that can't be read would otherwise only show as an attempt to connect that fails again and again.
fn read(what: &'static str, path: &Path) -> Result<String, ConnectionError> {
    fs::read_to_string(path).map_err(|source| ConnectionError::File { what, path: path.to_owned(), source })
}

fn reconnect_delay(attempts: usize) -> Duration {
    let doublings = u32::try_from(attempts.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
    (FIRST_RECONNECT_DELAY * 2_u32.pow(doublings)).min(MAX_RECONNECT_DELAY)
}

fn note(event: &Event, connected: &watch::Sender<bool>) {
    match event {
        Event::Connected => {
            tracing::info!("connected to the broker");
            connected.send_replace(true);
        }
        Event::Disconnected | Event::Closed => {
            tracing::warn!("no connection to the broker; trying again");
            connected.send_replace(false);
        }
        Event::LameDuckMode | Event::Draining => tracing::info!(%event, "broker"),
        Event::SlowConsumer(_) | Event::ServerError(_) | Event::ClientError(_) => {
            tracing::warn!(%event, "broker");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_between_attempts_grow_up_to_a_bound() {
        assert_eq!(reconnect_delay(0), FIRST_RECONNECT_DELAY);
        assert_eq!(reconnect_delay(1), FIRST_RECONNECT_DELAY);
        assert!(reconnect_delay(2) > reconnect_delay(1));
        assert_eq!(reconnect_delay(usize::MAX), MAX_RECONNECT_DELAY);
    }

    #[test]
    fn a_file_that_is_missing_is_named() {
        let settings = ConnectionSettings {
            credentials_file: Some(PathBuf::from("/nowhere/agent.creds")),
            ..ConnectionSettings::default()
        };
        let error = options(&settings).unwrap_err().to_string();
        assert!(error.starts_with("cannot read the credentials file /nowhere/agent.creds: "), "{error}");
    }

    #[test]
    fn a_password_is_not_shown() {
        let settings =
            ConnectionSettings { password: Some("hunter2".to_owned()), ..ConnectionSettings::default() };
        assert!(!format!("{settings:?}").contains("hunter2"));
    }
}
