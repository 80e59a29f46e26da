//! A Go service (`services/meter`) that executes one line as often and as fast as it is told, and says how often it did.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::go::target_dir;

/// The source.
pub fn source() -> Result<String> {
    Ok(fs::read_to_string(folder().join("main.go"))?)
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("services/meter")
}

/// The traced line of a source.
pub fn line(source: &str) -> Result<u32> {
    let line = source.lines().position(|line| line.contains("//probe:tick")).context("no marked line")?;
    Ok(u32::try_from(line + 1)?)
}

/// The traced line.
pub fn location() -> Result<String> {
    Ok(format!("meter/main.go:{}", line(&source()?)?))
}

/// Builds the program.
pub fn program() -> Result<PathBuf> {
    let output = target_dir()?.join("fixtures/meter");
    build(&folder(), &output)?;
    Ok(output)
}

/// Builds another program of a changed source, in a folder `meter` of this folder.
pub fn program_of(source: &str, folder: &Path) -> Result<PathBuf> {
    let meter = folder.join("meter");
    fs::create_dir_all(&meter)?;
    fs::write(meter.join("main.go"), source)?;
    fs::copy(self::folder().join("go.mod"), meter.join("go.mod"))?;
    let output = folder.join("program");
    build(&meter, &output)?;
    Ok(output)
}

fn build(folder: &Path, output: &Path) -> Result<()> {
    // A program of this name may be running: it is replaced, not written to.
    let own = output.with_extension(std::process::id().to_string());
    fs::create_dir_all(output.parent().context("a folder")?)?;
    let mut command = Command::new("go");
    command.current_dir(folder).args(["build", "-o"]).arg(&own).arg(".");
    ensure!(command.status()?.success(), "{} can't be built", folder.display());
    Ok(fs::rename(&own, output)?)
}

/// A running one.
#[derive(Debug)]
pub struct Meter {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    told: u64,
}

impl Meter {
    /// Starts one. `service` becomes its `OTEL_SERVICE_NAME`.
    pub fn start(program: &Path, service: &str) -> Result<Self> {
        Self::start_with(program, service, 0)
    }

    /// Starts one whose hits have a text of `padding` bytes.
    pub fn start_with(program: &Path, service: &str, padding: usize) -> Result<Self> {
        let mut child = Command::new(program)
            .env("OTEL_SERVICE_NAME", service)
            .env("METER_PADDING", padding.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = child.stdin.take().context("no standard input")?;
        let output = BufReader::new(child.stdout.take().context("no standard output")?);
        let mut meter = Self { child, input, output, told: 0 };
        ensure!(meter.wait()? == 0);
        Ok(meter)
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Begins to execute the line so often, so often a second (0: as fast as it can).
    pub fn begin(&mut self, count: u64, rate: u64) -> Result<()> {
        self.told += count;
        Ok(writeln!(self.input, "{count} {rate}")?)
    }

    /// Waits until it is done; how often the line was executed so far.
    pub fn wait(&mut self) -> Result<u64> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        let count = line.trim().parse().with_context(|| format!("the meter says {line:?}"))?;
        ensure!(count == self.told, "{count} of {}", self.told);
        Ok(count)
    }

    /// Executes the line so often; how often it was executed so far.
    pub fn run(&mut self, count: u64, rate: u64) -> Result<u64> {
        self.begin(count, rate)?;
        self.wait()
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
