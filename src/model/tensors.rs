//! The tensors of a model on disk: one safetensors file, or the several that an index joins, mapped into memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::tensor::TensorInfo;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use crate::error::{Error, Result};

/// The weights of a folder where they are one file.
pub(super) const WHOLE: &str = "model.safetensors";

/// What joins them where they are several.
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// The file of a folder's weights; or their index, and the files it joins.
///
/// # Errors
/// [`Error::Io`] where there is neither a file nor an index; [`Error::Format`] where there is a pickle alone, or an index
/// that cannot be followed.
pub(super) fn files(dir: &Path) -> Result<(PathBuf, Vec<PathBuf>)> {
    let [whole, index] = [WHOLE, INDEX].map(|name| dir.join(name));
    if !whole.exists() && index.exists() {
        let mut shards: Vec<PathBuf> =
            Index::read(&index)?.weight_map.into_values().map(|file| dir.join(file)).collect();
        shards.sort_unstable();
        shards.dedup();
        return Ok((index, shards));
    }
    match pickle(dir).filter(|_| !whole.exists()) {
        Some(pickle) => Err(Error::format(
            dir,
            format!(
                "holds its weights as {pickle} only, a pickle, which can run any program; {WHOLE} is needed. Where you trust it, convert it by: python -c \"from transformers import AutoModelForCausalLM as M; M.from_pretrained('{}').save_pretrained('converted')\"",
                dir.display()
            ),
        )),
        None => Ok((whole, Vec::new())),
    }
}

/// The weights of a folder where torch wrote them.
pub(super) fn pickle(dir: &Path) -> Option<&'static str> {
    ["pytorch_model.bin", "pytorch_model.bin.index.json"].into_iter().find(|name| dir.join(name).exists())
}

/// Whether that is the name of a file, not a path to somewhere else.
pub(super) fn is_name(name: &str) -> bool {
    Path::new(name).file_name().is_some_and(|file| file == name)
}

/// `model.safetensors.index.json`.
#[derive(Deserialize)]
struct Index {
    /// The file of each tensor.
    weight_map: BTreeMap<String, String>,
}

impl Index {
    fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(Error::io("cannot read", path))?;
        let what = "an object weight_map that names the file of each tensor";
        let index: Self = crate::files::json(path, &bytes, what)?;
        match index.weight_map.iter().find(|(_, file)| !is_name(file)) {
            Some((tensor, file)) => Err(Error::format(
                path,
                format!("looks for tensor {tensor} in {file:?}; the name of a file beside the index is needed"),
            )),
            None if index.weight_map.is_empty() => {
                Err(Error::format(path, format!("must hold {what}, and names none")))
            }
            None => Ok(index),
        }
    }
}

struct Mapped {
    path: PathBuf,
    map: Mmap,
    /// Where the header ends.
    data: usize,
}

/// Tensors by name, in one file or several.
pub(crate) struct Tensors {
    /// The file, or the index of several: the one that messages are about.
    path: PathBuf,
    files: Vec<Mapped>,
    /// File and place of each.
    found: BTreeMap<String, (usize, TensorInfo)>,
}

/// A tensor as a file holds it.
pub(crate) struct Stored<'a> {
    path: &'a Path,
    name: &'a str,
    info: &'a TensorInfo,
    data: &'a [u8],
}

impl Tensors {
    /// Opens one file.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be read; [`Error::Format`] where it is no whole safetensors file.
    #[cfg(feature = "record")]
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let mut tensors = Self { path: path.to_owned(), files: Vec::new(), found: BTreeMap::new() };
        tensors.add(path)?;
        Ok(tensors)
    }

    /// Opens the weights of a folder.
    ///
    /// # Errors
    /// As [`files`]; [`Error::Io`] where one cannot be read; [`Error::Format`] where one is no whole safetensors file, and
    /// where index and files do not agree.
    pub(super) fn of_folder(dir: &Path) -> Result<Self> {
        let (path, shards) = files(dir)?;
        let mut tensors = Self { path, files: Vec::new(), found: BTreeMap::new() };
        let path = tensors.path.clone();
        if shards.is_empty() {
            tensors.add(&path)?;
            return Ok(tensors);
        }
        for shard in &shards {
            if !shard.exists() {
                let name = shard.file_name().unwrap_or_default().display();
                return Err(Error::format(
                    path,
                    format!("names {name}, which is not there: the download is not complete, fetch that file too"),
                ));
            }
            tensors.add(shard)?;
        }
        for (name, file) in Index::read(&path)?.weight_map {
            if tensors.get(&name).is_none_or(|stored| stored.path.file_name() != Path::new(&file).file_name()) {
                return Err(Error::format(
                    path,
                    format!("says that {file} holds tensor {name}, and it does not: files of two models are mixed"),
                ));
            }
        }
        Ok(tensors)
    }

    fn add(&mut self, path: &Path) -> Result<()> {
        let file = File::open(path).map_err(Error::io("cannot read", path))?;
        // SAFETY: memory that is mapped must not change while it is borrowed, and nobody can promise that of a file. Those
        // who write model files here and elsewhere (`write_whole`, safetensors, the Hub's cache) put a new file in the old
        // one's place and leave the old one's content alone. One that is cut short while it is read ends the process by
        // a signal; bytes that change are other numbers, for any are valid.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io("cannot read", path))?;
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|error| torn(path, &error))?;
        for (name, info) in metadata.tensors() {
            if let Some((other, _)) = self.found.get(&name) {
                let other = self.files[*other].path.display();
                return Err(Error::format(
                    path,
                    format!("holds tensor {name}, and so does {other}: which is the right one?"),
                ));
            }
            self.found.insert(name, (self.files.len(), info.clone()));
        }
        self.files.push(Mapped { path: path.to_owned(), map, data: size_of::<u64>() + header });
        Ok(())
    }

    /// The file that messages about all of them are about.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// All names, in order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.found.keys().map(String::as_str)
    }

    /// Whether there is a tensor of that name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.found.contains_key(name)
    }

    /// The tensor of that name.
    pub(crate) fn get(&self, name: &str) -> Option<Stored<'_>> {
        let (name, (file, info)) = self.found.get_key_value(name)?;
        let Mapped { path, map, data } = &self.files[*file];
        let (from, to) = info.data_offsets;
        Some(Stored { path, name, info, data: &map[data + from..data + to] })
    }
}

/// Where the elements of a tensor of ours lie within one of a file: [i, j, ...] at `start` + i `strides[0]` + j `strides[1]` ...
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Strides {
    pub(super) start: usize,
    pub(super) strides: Vec<usize>,
}

impl Strides {
    /// All elements of a tensor in their own order, behind `start` others.
    pub(super) fn contiguous(start: usize, dims: &[usize]) -> Self {
        let mut strides = vec![1; dims.len()];
        for axis in (1..dims.len()).rev() {
            strides[axis - 1] = strides[axis] * dims[axis];
        }
        Self { start, strides }
    }

    /// Calls `with` the index of each element of a tensor of these dimensions and its place in the file.
    pub(super) fn each(&self, dims: &[usize], mut with: impl FnMut(usize, usize)) {
        let ([outer @ .., width], [far @ .., step]) = (dims, self.strides.as_slice()) else { return };
        let mut index = 0;
        for row in 0..outer.iter().product() {
            let (mut rest, mut place) = (row, self.start);
            for (size, stride) in outer.iter().zip(far).rev() {
                place += rest % size * stride;
                rest /= size;
            }
            for _ in 0..*width {
                with(index, place);
                index += 1;
                place += step;
            }
        }
    }
}

impl Stored<'_> {
    /// Its dimensions.
    pub(crate) fn shape(&self) -> &[usize] {
        &self.info.shape
    }

    /// Fails with what is wrong with this tensor.
    pub(super) fn fail(&self, what: impl std::fmt::Display) -> Error {
        Error::format(self.path, format!("tensor {} {what}", self.name))
    }

    /// Some of its elements as f32, whatever float type they are stored as, into a tensor of dimensions `dims`. The places
    /// must lie within its shape.
    ///
    /// # Errors
    /// [`Error::Format`] where it holds no floats.
    pub(super) fn read(&self, at: &Strides, dims: &[usize], out: &mut [f32]) -> Result<()> {
        fn fill<const N: usize>(
            data: &[u8],
            at: &Strides,
            dims: &[usize],
            out: &mut [f32],
            of: impl Fn([u8; N]) -> f32,
        ) {
            let (elements, _) = data.as_chunks::<N>();
            at.each(dims, |index, place| out[index] = of(elements[place]));
        }
        match self.info.dtype {
            Dtype::F32 => fill(self.data, at, dims, out, f32::from_le_bytes),
            Dtype::F64 => fill(self.data, at, dims, out, |b| f64::from_le_bytes(b) as f32),
            Dtype::F16 => fill(self.data, at, dims, out, |b| half::f16::from_le_bytes(b).to_f32()),
            Dtype::BF16 => fill(self.data, at, dims, out, |b| half::bf16::from_le_bytes(b).to_f32()),
            other => return Err(self.fail(format_args!("is {other:?}; f32, f64, f16 or bf16 is needed"))),
        }
        Ok(())
    }
}

/// Opens the bytes of a safetensors file.
///
/// # Errors
/// [`Error::Format`] where it is no whole safetensors file.
pub(crate) fn open<'a>(path: &Path, bytes: &'a [u8]) -> Result<SafeTensors<'a>> {
    SafeTensors::deserialize(bytes).map_err(|error| torn(path, &error))
}

fn torn(path: &Path, error: &safetensors::SafeTensorError) -> Error {
    Error::format(path, format!("is no complete safetensors file ({error}). It may be torn: copy or write it again"))
}
