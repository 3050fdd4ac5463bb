//! The `thermoscope` command.
fn main() {}
