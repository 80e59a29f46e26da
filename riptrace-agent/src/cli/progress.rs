//! What takes long is shown on stderr while it runs, where stderr is a terminal.

use std::{io::IsTerminal, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};

/// Shown only when a step takes longer than this.
const QUIET: Duration = Duration::from_millis(300);

/// A line that says what is going on; it vanishes when it is done.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    since: std::time::Instant,
}

impl Progress {
    /// Starts quietly.
    #[must_use]
    pub fn start() -> Self {
        let bar = ProgressBar::hidden();
        bar.set_style(ProgressStyle::default_spinner());
        Self { bar, since: std::time::Instant::now() }
    }

    /// Says what is done now.
    pub fn step(&self, text: &str) {
        if self.since.elapsed() > QUIET && std::io::stderr().is_terminal() {
            self.bar.set_draw_target(indicatif::ProgressDrawTarget::stderr());
        }
        self.bar.set_message(text.to_owned());
        self.bar.tick();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
