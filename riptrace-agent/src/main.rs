//! The binary `riptrace`: everything is in the library.

fn main() -> std::process::ExitCode {
    riptrace_agent::cli::main().into()
}
