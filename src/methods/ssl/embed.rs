//! Features of a folder of pictures, for whatever comes next: search, clusters, a classifier.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rayon::prelude::*;
use serde::Serialize;
use serde_json::json;

use super::backbone::{Backbone, load_backbone};
use crate::data::images::{find_pictures, named, skip, unreadable};
use crate::data::{npy, read_image};
use crate::files::{check_writable, same_file, write_whole};
use crate::methods::NetworkFlags;
use crate::methods::images::{IN_FLIGHT, usual_batch};
use crate::report::{Progress, bytes, grouped};
use crate::tensor::Read;
use crate::{Error, Result, Runtime, Tensor};

/// Longest header of a safetensors file, in bytes: what its readers take.
const MAX_HEADER_BYTES: usize = 16 << 20;

/// `ssl embed`.
#[derive(Debug, Clone, clap::Args, Serialize)]
pub struct EmbedConfig {
    /// Weights in safetensors, with a head or without
    #[arg(long, value_name = "FILE")]
    pub weights: PathBuf,
    /// The network.
    #[command(flatten)]
    pub network: NetworkFlags,
    /// Folder of PNG, JPEG or WebP pictures, also in folders in it
    #[arg(long, value_name = "DIR")]
    pub images: PathBuf,
    /// File for the features, .npy (the pictures' names go beside it as .txt) or .safetensors, one row a picture by path in byte order
    #[arg(long, value_name = "FILE")]
    pub file: PathBuf,
    /// Side in pixels that pictures are made to; the network's own unless given
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(1..=16_384))]
    pub side: Option<u32>,
    /// Pictures at a time; chosen by the network's memory unless given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_535))]
    pub batch: Option<u32>,
    /// Skip pictures that cannot be read, and list them
    #[arg(long)]
    pub skip_bad: bool,
}

/// How features are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// An array; the pictures' names go to a text file beside it.
    Npy,
    /// A tensor `features`; the names are in the metadata under `files`, a JSON list.
    Safetensors,
}

/// Features to be made of pictures that were found; needs no device yet.
#[derive(Debug)]
pub struct Embedding {
    backbone: Backbone,
    folder: PathBuf,
    pictures: Vec<PathBuf>,
    /// Paths below the folder.
    names: Vec<String>,
    file: PathBuf,
    format: Format,
    side: usize,
    batch: Option<usize>,
    skip_bad: bool,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EmbedReport {
    /// The network.
    pub network: String,
    /// Input normalisation.
    pub normalize: String,
    /// Pictures with features.
    pub n: usize,
    /// Length of a feature.
    pub n_features: usize,
    /// Side in pixels that pictures were made to.
    pub side: usize,
    /// Pictures that could not be read, each with the reason.
    pub skipped: Vec<String>,
    /// The file of the features.
    pub file: PathBuf,
    /// The file of the pictures' names, where they are not in the same.
    pub names_file: Option<PathBuf>,
    /// Pictures at a time.
    pub batch: usize,
    /// Pictures per second, reading and decoding included.
    pub images_per_s: f64,
    /// The adapter.
    pub adapter: String,
    /// Its back end.
    pub backend: String,
    /// Its driver.
    pub driver: String,
    /// Bytes held by tensors on the device at most.
    pub peak_device_bytes: u64,
}

impl Embedding {
    /// Reads and checks weights and flags, and finds the pictures.
    ///
    /// # Errors
    /// [`Error::File`] and [`Error::Input`] for everything that is wrong with the files or flags.
    pub fn prepare(config: &EmbedConfig) -> Result<Self> {
        let format = match config.file.extension().and_then(|e| e.to_str()) {
            Some("npy") => Format::Npy,
            Some("safetensors") => Format::Safetensors,
            _ => return Err(Error::file(&config.file, "features go to a .npy or a .safetensors file")),
        };
        if same_file(&config.weights, &config.file) {
            return Err(Error::file(&config.file, "the weights, which features would replace"));
        }
        let backbone = load_backbone(&config.weights, &config.network)?;
        let spec = backbone.spec();
        if !matches!(spec.channels(), 1 | 3) {
            return Err(Error::Input(format!("{spec}: takes {} channels, pictures have 1 or 3", spec.channels())));
        }
        let side = config.side.map_or(spec.image(), |side| side as usize);
        backbone.plan().summary([side; 2])?;
        let (pictures, _) = find_pictures(&config.images)?;
        if pictures.is_empty() {
            return Err(Error::file(&config.images, "no PNG, JPEG or WebP file in it or in a folder in it"));
        }
        let names = pictures.iter().map(|path| name(&config.images, path)).collect();
        let embedding = Self {
            backbone,
            folder: config.images.clone(),
            pictures,
            names,
            file: config.file.clone(),
            format,
            side,
            batch: config.batch.map(|n| n as usize),
            skip_bad: config.skip_bad,
        };
        embedding.header(&embedding.names, 0)?;
        check_writable(&embedding.file)?;
        embedding.names_file().map_or(Ok(()), |path| check_writable(&path))?;
        Ok(embedding)
    }

    /// Writes the features of all pictures, batch by batch: no more than a few batches are in memory.
    ///
    /// # Errors
    /// [`Error::File`] that names all pictures that cannot be read, unless they are skipped; [`Error::Write`];
    /// [`Error::Failed`] for features that are no numbers; [`Error::Limit`] or [`Error::OutOfMemory`] if a batch does not fit.
    pub fn run(&self, runtime: &Runtime, quiet: bool) -> Result<EmbedReport> {
        let start = Instant::now();
        let network = self.backbone.on(runtime)?;
        let activation_bytes = self.backbone.activation_bytes([self.side; 2])?;
        let batch = self.batch.unwrap_or_else(|| usual_batch(runtime, activation_bytes)).min(self.pictures.len());
        let mut features = |images: &Tensor| network.features(images)?.read();
        let mut failure = None;
        let mut written = (Vec::new(), Vec::new());
        let outcome = write_whole(&self.file, |file| {
            self.fill(runtime, batch, quiet, &mut features, file).map(|done| written = done).map_err(|error| {
                let message = error.to_string();
                failure = Some(error);
                io::Error::other(message)
            })
        });
        match failure {
            Some(error) => return Err(error),
            None => outcome?,
        }
        let (names, skipped) = written;
        if let Some(path) = self.names_file() {
            // A name stays one line.
            write_whole(&path, |f| names.iter().try_for_each(|name| writeln!(f, "{}", name.replace('\n', "\\n"))))?;
        }
        let profile = runtime.profile();
        Ok(EmbedReport {
            network: self.backbone.spec().to_string(),
            normalize: self.backbone.normalize().to_string(),
            n: names.len(),
            n_features: self.backbone.n_features(),
            side: self.side,
            skipped,
            file: self.file.clone(),
            names_file: self.names_file(),
            batch,
            images_per_s: names.len() as f64 / start.elapsed().as_secs_f64().max(1e-9),
            adapter: profile.name.clone(),
            backend: profile.backend.to_string(),
            driver: format!("{} {}", profile.driver, profile.driver_info),
            peak_device_bytes: runtime.memory().peak_bytes,
        })
    }

    /// Where the names go if they are not in the file itself.
    fn names_file(&self) -> Option<PathBuf> {
        (self.format == Format::Npy).then(|| self.file.with_extension("txt"))
    }

    /// What stands in front of the features of the pictures called `names`, at least `least` bytes.
    fn header(&self, names: &[String], least: usize) -> Result<Vec<u8>> {
        let shape = [names.len(), self.backbone.n_features()];
        if self.format == Format::Npy {
            return npy::header(&shape, "f32", least);
        }
        let (network, normalize) = (self.backbone.spec().to_string(), self.backbone.normalize().to_string());
        let metadata = json!({ "files": json!(names).to_string(), "network": network, "normalize": normalize });
        let features = json!({ "dtype": "F32", "shape": shape, "data_offsets": [0, 4 * shape[0] * shape[1]] });
        let mut text = json!({ "__metadata__": metadata, "features": features }).to_string().into_bytes();
        if text.len() > MAX_HEADER_BYTES {
            let n = grouped(names.len() as u64);
            let message = format!("the names of {n} pictures do not fit a safetensors header: take a .npy file");
            return Err(Error::file(&self.file, message));
        }
        text.resize(text.len().next_multiple_of(8).max(least.saturating_sub(8)), b' ');
        Ok([&(text.len() as u64).to_le_bytes(), text.as_slice()].concat())
    }

    /// Writes the header and the features; gives the names of the pictures that are there, and those that were skipped.
    fn fill(
        &self,
        runtime: &Runtime,
        batch: usize,
        quiet: bool,
        features: &mut dyn FnMut(&Tensor) -> Result<Read<f32>>,
        file: &mut BufWriter<File>,
    ) -> Result<(Vec<String>, Vec<String>)> {
        let write = |e: io::Error| Error::Write { path: self.file.clone(), message: e.to_string() };
        let before = self.header(&self.names, 0)?;
        file.write_all(&before).map_err(write)?;
        let mut rows = Rows {
            pending: VecDeque::new(),
            progress: Progress::new("embed", self.pictures.len() as u64, "pictures", quiet),
        };
        let (mut names, mut bad) = (Vec::new(), Vec::new());
        let channels = self.backbone.spec().channels();
        for (paths, batch_names) in self.pictures.chunks(batch).zip(self.names.chunks(batch)) {
            let decoded: Vec<Result<Vec<u8>>> = paths.par_iter().map(|path| self.pixels(path)).collect();
            let mut pixels = Vec::new();
            for (decoded, name) in decoded.into_iter().zip(batch_names) {
                match decoded {
                    Ok(picture) => {
                        pixels.extend(picture);
                        names.push(name.clone());
                    }
                    Err(error) => {
                        bad.push(error);
                        rows.progress.advance(1);
                    }
                }
            }
            // Behind the first bad picture that may not be skipped, the others are looked for alone.
            if pixels.is_empty() || !(bad.is_empty() || self.skip_bad) {
                continue;
            }
            let n = pixels.len() / (self.side * self.side * channels);
            let images = Tensor::from_slice(runtime, &pixels, &[n, self.side, self.side, channels])?;
            rows.pending.push_back((n, features(&images)?));
            rows.write(IN_FLIGHT, file, &write)?;
        }
        if !bad.is_empty() && (!self.skip_bad || names.is_empty()) {
            return Err(unreadable(&self.folder, bad, self.pictures.len()));
        }
        rows.write(0, file, &write)?;
        if !bad.is_empty() {
            // Fewer names and rows: the new header takes the place of the old.
            let header = self.header(&names, before.len())?;
            file.seek(SeekFrom::Start(0)).map_err(write)?;
            file.write_all(&header).map_err(write)?;
        }
        Ok((names, skip(&self.folder, &bad)))
    }

    /// Pixels of a picture as the network wants them, `[side, side, channels]`.
    fn pixels(&self, path: &Path) -> Result<Vec<u8>> {
        let picture = read_image(path)?.fit(self.side)?;
        Ok(if self.backbone.spec().channels() == 1 { picture.gray() } else { picture.rgb })
    }
}

/// Features on their way to the file.
struct Rows {
    pending: VecDeque<(usize, Read<f32>)>,
    progress: Progress,
}

impl Rows {
    /// Writes the oldest batches until at most `keep` are on their way.
    fn write(&mut self, keep: usize, file: &mut BufWriter<File>, failed: &dyn Fn(io::Error) -> Error) -> Result<()> {
        while self.pending.len() > keep {
            let Some((n, read)) = self.pending.pop_front() else { break };
            let values = read.wait()?;
            if !values.iter().all(|v| v.is_finite()) {
                return Err(Error::Failed("features that are no numbers: are these the network's weights?".into()));
            }
            values.iter().try_for_each(|v| file.write_all(&v.to_le_bytes())).map_err(failed)?;
            self.progress.advance(n as u64);
        }
        Ok(())
    }
}

/// A path below the folder, with `/` between its parts.
fn name(folder: &Path, path: &Path) -> String {
    let parts = path.strip_prefix(folder).unwrap_or(path).components();
    parts.map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}

impl fmt::Display for EmbedReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { network, normalize, n, n_features, side, skipped, .. } = self;
        writeln!(f, "{network}")?;
        let n = grouped(*n as u64);
        writeln!(f, "{n} pictures of {side}x{side} pixels, normalised by {normalize}: {n_features} features each")?;
        write!(f, "written to {}", self.file.display())?;
        if let Some(names) = &self.names_file {
            write!(f, ", the pictures' names to {}", names.display())?;
        }
        writeln!(f)?;
        if !skipped.is_empty() {
            writeln!(f, "{} skipped: {}", grouped(skipped.len() as u64), named(skipped))?;
        }
        let (speed, peak) = (self.images_per_s, bytes(self.peak_device_bytes));
        write!(f, "{speed:.1} pictures/s in batches of {}, {peak} on {} ({})", self.batch, self.adapter, self.backend)
    }
}
