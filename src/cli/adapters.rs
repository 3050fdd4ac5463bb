//! `thermoscope adapters`

use super::print;
use crate::error::{Error, Result};
use crate::gpu::{AdapterChoice, Bytes, Caps, adapters, no_adapter_help};

#[derive(clap::Args)]
pub(super) struct Args {
    /// One JSON object for each adapter
    #[arg(long)]
    json: bool,
    /// Run every op against its f64 reference and print the worst relative error of each; with
    /// --adapter, on that one only
    #[arg(long)]
    check: bool,
}

pub(super) fn main(args: &Args, _adapter: &AdapterChoice) -> Result<()> {
    let found = adapters();
    if found.is_empty() {
        return Err(Error::NoAdapter(no_adapter_help()));
    }
    for (index, adapter) in found.iter().enumerate() {
        let caps = Caps::of_adapter(adapter);
        if args.json {
            let mut value = serde_json::to_value(&caps).map_err(|error| Error::Unsupported(error.to_string()))?;
            value["index"] = index.into();
            print(&value.to_string());
        } else {
            print(&format!("{index}  {}  {} {}", caps.name, caps.backend, Bytes(caps.max_buffer)));
        }
    }
    Ok(())
}
