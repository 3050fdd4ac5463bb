//! The `thermoscope` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    thermoscope::cli::main()
}
