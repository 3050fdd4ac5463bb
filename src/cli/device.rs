//! The device of a command, with matrix products cut as was found fastest on it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::complain;
use crate::bench;
use crate::error::Result;
use crate::files;
use crate::gpu::{AdapterChoice, Caps, Gpu, Options, Tuning};

/// Which device a command runs on, and how it is opened: of the commands that open one.
#[derive(clap::Args)]
pub(super) struct Device {
    /// Adapter to use: its index or part of its name, as `thermoscope adapters` lists them. Default: the
    /// best GPU, or a software adapter where there is none
    #[arg(long = "adapter", value_name = "INDEX|NAME")]
    choice: Option<AdapterChoice>,
    /// Cut matrix products by default rules, not as a short search on this device found fastest. Results
    /// are the same to the bit
    #[arg(long)]
    no_tune: bool,
}

/// What is kept of a search, and what it holds for.
#[derive(Serialize, Deserialize, PartialEq)]
struct Kept {
    adapter: String,
    backend: String,
    driver: String,
    version: String,
    #[serde(default)]
    tuning: Tuning,
}

impl Kept {
    fn of(caps: &Caps, tuning: Tuning) -> Self {
        Self {
            adapter: caps.name.clone(),
            backend: caps.backend.clone(),
            driver: caps.driver.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            tuning,
        }
    }

    /// The file of a device, driver and version of this program, if the system has a place for such.
    fn path(&self) -> Option<PathBuf> {
        let key = [&self.adapter, &self.backend, &self.driver, &self.version].map(String::as_str).join("\n");
        let name = format!("tuning-{}.json", &blake3::hash(key.as_bytes()).to_hex()[..16]);
        Some(dirs::cache_dir()?.join("thermoscope").join(name))
    }

    /// What was kept for the same device; what cannot be read is as good as nothing.
    fn read(&self, path: &Path) -> Option<Tuning> {
        let found: Self = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        let same = Self { tuning: Tuning::default(), ..found } == *self;
        same.then_some(found.tuning)
    }
}

impl Device {
    /// Whether anything was asked for.
    pub(super) fn is_asked(&self) -> bool {
        self.choice.is_some() || self.no_tune
    }

    /// Opens the device. A GPU that is seen for the first time is searched for the fastest tiles, which takes a few
    /// seconds; software adapters keep the default until `thermoscope bench tune` has searched them.
    ///
    /// # Errors
    /// Where no adapter matches, or the device fails.
    pub(super) fn open(&self) -> Result<Gpu> {
        self.open_with(Options::default())
    }

    /// The same, with cooperative matrices where the adapter has any.
    ///
    /// # Errors
    /// As [`Device::open`].
    pub(super) fn open_cooperative(&self) -> Result<Gpu> {
        self.open_with(Options { cooperative: true, ..Options::default() })
    }

    fn open_with(&self, options: Options) -> Result<Gpu> {
        let gpu = Gpu::open(&self.choice.clone().unwrap_or_default(), options)?;
        if self.no_tune {
            return Ok(gpu);
        }
        let kept = Kept::of(gpu.caps(), Tuning::default());
        match kept.path().and_then(|path| kept.read(&path)) {
            Some(tuning) => gpu.tune(tuning),
            None if gpu.caps().is_software() => {}
            None => {
                complain(&format!("{}: first use, looking for the fastest matrix tiles", gpu.caps().name));
                search(&gpu)?;
            }
        }
        Ok(gpu)
    }
}

/// Searches a device, keeps what was found for later runs, and says where.
///
/// # Errors
/// Where the device fails.
pub(super) fn search(gpu: &Gpu) -> Result<(Tuning, Option<PathBuf>)> {
    let tuning = bench::tune(gpu)?;
    let kept = Kept::of(gpu.caps(), tuning.clone());
    let Some(path) = kept.path() else { return Ok((tuning, None)) };
    let text = serde_json::to_vec_pretty(&kept).unwrap_or_default();
    let folder = path.parent().unwrap_or(Path::new("."));
    let written = std::fs::create_dir_all(folder).is_ok() && files::write_whole(&path, &text).is_ok();
    if !written {
        complain(&format!("{} cannot be written: the search will be repeated next time", path.display()));
    }
    Ok((tuning, written.then_some(path)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Tiling;

    #[test]
    fn a_search_is_kept_for_its_device_driver_and_version_only() {
        let caps = Gpu::noop().caps().clone();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kept.json");
        let mut tuning = Tuning::default();
        tuning.set(1, 300, 64, Tiling::Workgroup { side: 128 });
        std::fs::write(&path, serde_json::to_vec(&Kept::of(&caps, tuning.clone())).unwrap()).unwrap();
        let mine = Kept::of(&caps, Tuning::default());
        assert_eq!(mine.read(&path), Some(tuning));
        let newer = Kept { driver: "newer".to_owned(), ..Kept::of(&caps, Tuning::default()) };
        assert_eq!(newer.read(&path), None);
        assert_ne!(newer.path(), mine.path());
        std::fs::write(&path, "{ torn").unwrap();
        assert_eq!(mine.read(&path), None);
    }
}
