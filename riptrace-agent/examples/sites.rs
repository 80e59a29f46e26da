//! `cargo xtask bench sites BINARY`: how many line entries of a program can be armed cheaply.

use std::path::Path;

use anyhow::{Context, Result};
use riptrace_agent::{
    binary::{DebugOptions, Executable},
    trace::{Image, survey::survey},
};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().context("usage: sites BINARY [EVERY]")?;
    let every = arguments.next().map_or(Ok(1), |text| text.parse())?;
    let executable = Executable::open(Path::new(&path))?;
    let image = Image::load(executable, &DebugOptions::from_environment(None), &|_| {});
    if let Some(missing) = &image.debug_missing {
        anyhow::bail!("{path}: {missing}");
    }
    println!("{}", survey(&image, every));
    Ok(())
}
