//! Every hook of a forward pass of a model folder, as a safetensors file with TransformerLens's names, and the logits:
//! what `tools/formats.py` compares with other libraries.
//!
//!     cargo run --release --example hooks -- MODEL_DIR TOKENS.json OUT.safetensors
//!
//! TOKENS.json is a list of lists of token ids of equal length.

use std::error::Error;
use std::path::Path;

use safetensors::{Dtype, tensor::TensorView};
use thermoscope::autograd::ops::Scale;
use thermoscope::autograd::{Bindings, Tape};
use thermoscope::gpu::{AdapterChoice, Class, Gpu, Options, Select, Storage, read_now};
use thermoscope::model::{Model, ModelFolder, ReadOut, Rows};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, tokens, out] = args.as_slice() else { return Err("usage: hooks MODEL_DIR TOKENS.json OUT".into()) };
    let folder = ModelFolder::read(Path::new(model))?;
    let tokens: Vec<Vec<u32>> = serde_json::from_str(&std::fs::read_to_string(tokens)?)?;
    let (batch, seq) = (tokens.len(), tokens.first().map_or(0, Vec::len));

    let gpu = Gpu::open(&AdapterChoice::Best, Options::default())?;
    let mut tape = Tape::new(1);
    let model = Model::new(&folder.config, &mut tape);
    let rows = Rows::Each { tokens: tape.constant_u32(&[batch * seq], &tokens.concat()) };
    let forward = model.forward(&mut tape, &rows, batch, seq, ReadOut::All)?;

    let mut bindings = Bindings::new();
    for (spec, weight) in model.table.specs().iter().zip(&model.weights) {
        let values = &folder.replicas[0][spec.offset..][..spec.len()];
        bindings.bind(*weight, Storage::whole(&gpu.upload(Class::Weights, values)?, 0));
    }
    let logits = tape.reshape(forward.logits, &[batch, seq, folder.config.d_vocab_out])?;
    let mut outputs = Vec::new();
    for (name, var) in forward.hooks.into_iter().chain([("logits".to_owned(), logits)]) {
        // Hooks may be two views of one value; copies of them have buffers of their own.
        let copy = tape.push1(Scale(1.0), &[var])?;
        let shape = tape.shape(copy).clone();
        let buffer = gpu.buffer(Class::Data, shape.len() as u64)?;
        bindings.bind(copy, Storage::whole(&buffer, shape.len() as u64));
        outputs.push((name, shape, buffer));
    }
    let program = tape.compile(&gpu, &bindings)?;
    let mut encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    let everything = Select { step: 0, update: true };
    program.encode(&mut encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default()), everything);
    gpu.queue().submit([encoder.finish()]);

    let mut found = Vec::new();
    for (name, shape, buffer) in outputs {
        let words = read_now(&gpu, &buffer, 0..shape.len() as u64 * 4)?;
        found.push((name, shape.dims, words));
    }
    let views = found.iter().map(|(name, dims, words)| {
        TensorView::new(Dtype::F32, dims.clone(), bytemuck::cast_slice(words)).map(|view| (name.as_str(), view))
    });
    safetensors::serialize_to_file(views.collect::<Result<Vec<_>, _>>()?, None, Path::new(out))?;
    Ok(())
}
