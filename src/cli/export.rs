//! `thermoscope export`

use std::path::{Path, PathBuf};

use super::print;
use crate::error::{Error, Result};
use crate::model::{ModelFolder, TOKENIZER};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  thermoscope export runs/mine/checkpoints/step-020000 --out mine-hf
  thermoscope export pythia-70m --to transformer-lens --out pythia-lens

Hugging Face's layouts are GPT-2, GPT-NeoX and Llama; which one a model fits
follows from it, and if none does, all reasons are told. They have no bias of
logits: train with --set model.unembed_bias=false. In Python:
  transformers.AutoModelForCausalLM.from_pretrained(\"mine-hf\")
and with TransformerLens 4, or what was written with --to transformer-lens:
  TransformerBridge.boot_transformers(\"mine-hf\")
  hooked_transformer.load_state_dict(
    load_file(\"pythia-lens/model.safetensors\"), strict=False)

A checkpoint of several replicas becomes a folder for each, replica-0,
replica-1, and so on.")]
pub(super) struct Args {
    /// A model folder, in any layout that is read: a checkpoint of a run, TransformerLens's, Hugging Face's
    #[arg(value_name = "CHECKPOINT")]
    model: PathBuf,
    /// Folder to write; must be new or empty
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Layout to write
    #[arg(long, value_enum, default_value_t = Layout::Hf)]
    to: Layout,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Layout {
    /// As Hugging Face's transformers keeps models
    Hf,
    /// TransformerLens's weight names
    TransformerLens,
}

pub(super) fn main(args: &Args) -> Result<()> {
    let folder = super::read_model(&args.model)?;
    if args.out.exists() && std::fs::read_dir(&args.out).map_or(true, |mut entries| entries.next().is_some()) {
        return Err(Error::Refused(format!(
            "{} is there and not empty; name another folder by --out",
            args.out.display()
        )));
    }
    let tokenizer = ModelFolder::place(&args.model)?.join(TOKENIZER);
    let many = folder.replicas.len() > 1;
    for (number, weights) in folder.replicas.into_iter().enumerate() {
        let one = ModelFolder { config: folder.config.clone(), replicas: vec![weights] };
        let out = if many { args.out.join(format!("replica-{number}")) } else { args.out.clone() };
        write(&one, args.to, &tokenizer, &out)?;
        print(&format!("written: {}", out.display()));
    }
    Ok(())
}

fn write(folder: &ModelFolder, to: Layout, tokenizer: &Path, out: &Path) -> Result<()> {
    match to {
        Layout::Hf => folder.write_hf(out).map_err(|error| match error {
            Error::Unsupported(why) => Error::Unsupported(format!("{why}. --to transformer-lens writes any model")),
            other => other,
        })?,
        Layout::TransformerLens => folder.write(out)?,
    }
    if tokenizer.exists() {
        std::fs::copy(tokenizer, out.join(TOKENIZER)).map_err(Error::io("cannot copy", tokenizer))?;
    }
    Ok(())
}
