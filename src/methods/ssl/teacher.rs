//! Teachers of a distillation, and their features of fixed views, kept on disk.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};

use serde_json::json;

use super::backbone::{Backbone, load_backbone};
use crate::data::ImageSet;
use crate::files::Digest;
use crate::methods::NetworkFlags;
use crate::methods::images::{IN_FLIGHT, each_batch, usual_batch};
use crate::methods::training::RESIDENT_BYTES;
use crate::nn::{Checkpoint, Model, ModelSpec, ParamList, RawTensor, Weights};
use crate::ops::random::Key;
use crate::ops::views::{Recipe, Views};
use crate::philox::stream;
use crate::report::{Progress, grouped};
use crate::tensor::Read;
use crate::{DType, Error, Result, Runtime, Tensor};

/// Where a teacher's features lie in a folder.
const FILE: &str = "teacher_features.safetensors";
const KIND: &str = "leanvision teacher features";
/// Changes when views of a recipe and a seed do, or what the file holds.
const FORMAT: &str = "1";
const CHECKSUM: &str = "checksum";
/// The stream of the views that a teacher sees: the one of a pair's second view.
pub(crate) const VIEW_STREAM: u32 = stream::VIEWS + 1;

/// A trained network without its head, whose features are the targets of others.
#[derive(Debug, Clone)]
pub struct Teacher {
    backbone: Backbone,
}

impl Teacher {
    /// Reads weights, with a head or without, to teach from the images of `set`: of a training here, or a published network.
    ///
    /// # Errors
    /// As [`load_backbone`]; [`Error::Input`] if the images are of other channels or of a size that the network does not take.
    pub fn load(path: &Path, flags: &NetworkFlags, set: &ImageSet) -> Result<Self> {
        let backbone = load_backbone(path, flags)?;
        backbone.fits(set).map_err(|e| Error::Input(format!("teacher {}: {e}", path.display())))?;
        Ok(Self { backbone })
    }

    /// The network.
    #[must_use]
    pub fn backbone(&self) -> &Backbone {
        &self.backbone
    }

    /// What it is.
    #[must_use]
    pub fn spec(&self) -> &ModelSpec {
        self.backbone.spec()
    }

    /// Length of a feature.
    #[must_use]
    pub fn n_features(&self) -> usize {
        self.backbone.n_features()
    }

    /// Stored values, running statistics among them.
    #[must_use]
    pub fn n_stored(&self) -> u64 {
        self.backbone.plan().params.n_stored()
    }

    /// Multiply-adds for one image of `[h, w]` pixels.
    ///
    /// # Errors
    /// [`Error::Input`] if it does not take such images.
    pub fn macs(&self, image: [usize; 2]) -> Result<u64> {
        Ok(self.backbone.plan().summary(image)?.multiply_adds)
    }

    /// Mean and standard deviation of its input by channel, `[c]` each, of pixels in 0..1.
    #[must_use]
    pub fn mean_std(&self) -> &(Vec<f32>, Vec<f32>) {
        self.backbone.mean_std()
    }

    /// The network on a device, its batch norms folded; it takes normalised images to features.
    ///
    /// # Errors
    /// As [`Model::new`].
    pub fn model(&self, runtime: &Runtime) -> Result<Model> {
        Ok(self.backbone.on(runtime)?.model().clone())
    }

    /// What its features depend on.
    fn digest(&self) -> String {
        let mut digest = Digest::new();
        // The plan says what the weights are used for, heads and norms included.
        digest.add(format!("{:?} {:?}", self.backbone.plan(), self.mean_std()).as_bytes());
        self.backbone.weights().iter().for_each(|values| digest.add(bytemuck::cast_slice(values)));
        digest.text()
    }
}

/// Which views of its images a teacher sees: the same ones in every epoch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TeacherViews {
    /// Views of each image; 0 for the images themselves.
    pub n: u32,
    /// How they are made.
    pub recipe: Recipe,
    /// What they are drawn from.
    pub seed: u64,
}

impl TeacherViews {
    /// The key of view `v`: a student that makes its views by this key sees what the teacher saw.
    #[must_use]
    pub fn key(&self, v: u32) -> Key {
        Key::new(self.seed, VIEW_STREAM, v)
    }
}

/// A teacher's features of all images of a set, f32 `[views * n, d]`: the first view of every image, then the second; `[n, d]`
/// for the images themselves. Read from `teacher_features.safetensors` in `folder`, or made now and kept there.
///
/// What is kept is used only if teacher, images and views are the same and its data is whole; else a line of warning says why
/// not, and it is made again. Another adapter's features are taken, although they may differ in the last bits.
///
/// # Errors
/// [`Error::Limit`] for views of a set that is too large to lie on the device as a whole, [`Error::Failed`] for features that are
/// no numbers, [`Error::Write`] if they cannot be kept; as [`Model::forward`].
pub fn teacher_features(
    runtime: &Runtime,
    teacher: &Teacher,
    set: &ImageSet,
    views: &TeacherViews,
    folder: Option<&Path>,
    quiet: bool,
) -> Result<Tensor> {
    let shape = [views.n.max(1) as usize * set.len(), teacher.n_features()];
    let kept = folder.map(|folder| Kept::new(folder, teacher, set, views, shape));
    if let Some(kept) = &kept {
        match kept.read() {
            Ok(Some(bytes)) => return from_bytes(runtime, &bytes, &shape),
            Ok(None) => {}
            Err(reason) => log::warn!("{}: {reason}; the teacher's features are made again", kept.path.display()),
        }
    }
    let values = make(runtime, teacher, set, views, quiet)?;
    if let Some(kept) = &kept {
        kept.write(&values)?;
    }
    Tensor::from_slice(runtime, &values, &shape)
}

/// Computes them.
fn make(runtime: &Runtime, teacher: &Teacher, set: &ImageSet, views: &TeacherViews, quiet: bool) -> Result<Vec<f32>> {
    if set.is_empty() {
        return Err(Error::Input(format!("{}: no image in it", set.name)));
    }
    let size = [set.height, set.width];
    let network = teacher.backbone.on(runtime)?;
    let batch = usual_batch(runtime, teacher.backbone.activation_bytes(size)?).min(set.len());
    let n = set.len() * views.n.max(1) as usize;
    let mut arrived = Arrived {
        values: Vec::with_capacity(n * teacher.n_features()),
        pending: VecDeque::new(),
        progress: Progress::new("teacher", n as u64, "images", quiet),
    };
    if views.n == 0 {
        each_batch(runtime, set, batch, &mut |images| {
            arrived.pending.push_back((images.shape()[0], network.features(images)?.read()?));
            arrived.take(IN_FLIGHT)
        })?;
    } else {
        // Draws go by an image's number in the tensor, so that all images must be there.
        let most = RESIDENT_BYTES.min(runtime.profile().limits.binding_bytes as usize);
        if set.images.len() > most {
            return Err(Error::Limit {
                what: "bytes of images for fixed views (without fixed views each epoch makes its own)".into(),
                asked: set.images.len() as u64,
                limit: most as u64,
                adapter: runtime.profile().name.clone(),
            });
        }
        let images = Tensor::from_slice(runtime, &set.images, &[set.len(), set.height, set.width, set.channels])?;
        let ids: Vec<u32> = (0..set.len() as u32).collect();
        let ids = Tensor::from_slice(runtime, &ids, &[ids.len()])?;
        let maker = Views::new(runtime, &views.recipe, size, size)?;
        let (scale, shift) = network.scale_shift();
        for v in 0..views.n {
            for start in (0..set.len()).step_by(batch) {
                let ids = ids.slice(0, start..(start + batch).min(set.len()))?;
                let x = maker.make(&images, &ids, None, scale, shift, views.key(v), DType::F32)?;
                arrived.pending.push_back((ids.len(), network.model().forward(&x)?.read()?));
                arrived.take(IN_FLIGHT)?;
            }
        }
    }
    arrived.take(0)?;
    Ok(arrived.values)
}

/// Features on their way to the host, and those that are there.
struct Arrived {
    values: Vec<f32>,
    pending: VecDeque<(usize, Read<f32>)>,
    progress: Progress,
}

impl Arrived {
    /// Waits until at most `keep` batches are on their way.
    fn take(&mut self, keep: usize) -> Result<()> {
        while self.pending.len() > keep {
            let Some((n, read)) = self.pending.pop_front() else { break };
            let values = read.wait()?;
            if !values.iter().all(|v| v.is_finite()) {
                return Err(Error::Failed("the teacher's features are no numbers: are these its weights?".into()));
            }
            self.values.extend(values);
            self.progress.advance(n as u64);
        }
        Ok(())
    }
}

fn from_bytes(runtime: &Runtime, bytes: &[u8], shape: &[usize]) -> Result<Tensor> {
    Tensor::from_slice(runtime, &bytemuck::pod_collect_to_vec::<u8, f32>(bytes), shape)
}

/// The file that keeps features.
struct Kept {
    path: PathBuf,
    shape: [usize; 2],
    /// What they were made of.
    inputs: BTreeMap<String, String>,
}

impl Kept {
    fn new(folder: &Path, teacher: &Teacher, set: &ImageSet, views: &TeacherViews, shape: [usize; 2]) -> Self {
        let mut images = Digest::new();
        images.add(format!("{}x{}x{}", set.height, set.width, set.channels).as_bytes());
        images.add(&set.images);
        let TeacherViews { n, recipe, seed } = views;
        let (recipe, seed) = if *n == 0 { (json!(null), 0) } else { (json!(recipe), *seed) };
        let inputs = [
            ("kind", KIND.to_string()),
            ("format", FORMAT.to_string()),
            ("teacher", teacher.digest()),
            ("images", images.text()),
            ("views", n.to_string()),
            ("recipe", recipe.to_string()),
            ("seed", seed.to_string()),
        ];
        let inputs = inputs.map(|(name, value)| (name.to_string(), value)).into();
        Self { path: folder.join(FILE), shape, inputs }
    }

    /// The bytes of the features, `None` if there is no file, or why they cannot be used.
    fn read(&self) -> std::result::Result<Option<Vec<u8>>, String> {
        if !self.path.exists() {
            return Ok(None);
        }
        let mut file = Checkpoint::read(&self.path).map_err(|error| match error {
            Error::File { message, .. } => message,
            other => other.to_string(),
        })?;
        let found = file.header().metadata().clone();
        let differs = |(name, value): &(&String, &String)| found.get(*name) != Some(*value);
        let other: Vec<&str> = self.inputs.iter().filter(differs).map(|(name, _)| name.as_str()).collect();
        if !other.is_empty() {
            return Err(format!("of other inputs ({})", other.join(", ")));
        }
        let tensors = file.take_raw("");
        let [RawTensor { name, dtype: DType::F32, shape, bytes }] = &tensors[..] else {
            return Err("holds something else".into());
        };
        if name != "features" || *shape != self.shape {
            return Err(format!("holds {name} {shape:?}, features {:?} wanted", self.shape));
        }
        if found.get(CHECKSUM) != Some(&checksum(bytes)) {
            return Err("damaged: its data is not what was written".into());
        }
        Ok(tensors.into_iter().next().map(|tensor| tensor.bytes))
    }

    fn write(&self, values: &[f32]) -> Result<()> {
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, &e))?;
        }
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let mut metadata = self.inputs.clone();
        metadata.insert(CHECKSUM.into(), checksum(&bytes));
        let features = RawTensor { name: "features".into(), dtype: DType::F32, shape: self.shape.to_vec(), bytes };
        let none = ParamList::default();
        Weights::new(&none, Vec::new())?.save_with(&self.path, &none, &[features], &metadata)?;
        let size = crate::report::bytes(4 * values.len() as u64);
        log::info!("{}: {} features kept, {size}", self.path.display(), grouped(self.shape[0] as u64));
        Ok(())
    }
}

fn checksum(bytes: &[u8]) -> String {
    let mut digest = Digest::new();
    digest.add(bytes);
    digest.text()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Split, shapes};
    use crate::methods::ssl::save_backbone;
    use crate::nn::{Hints, initial};

    #[test]
    fn what_is_wrong_with_kept_features_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let spec = ModelSpec::by_name("resnet8_x0.25").unwrap();
        let path = folder.path().join("w.safetensors");
        let hints = Hints { normalize: Some("cifar".into()), ..Hints::default() };
        save_backbone(&path, &spec, &initial(&spec, 1).unwrap(), &hints).unwrap();
        let set = shapes(3, 1, Split::Train);
        let teacher = Teacher::load(&path, &NetworkFlags::default(), &set).unwrap();
        let views = TeacherViews { n: 2, recipe: Recipe::WEAK, seed: 1 };
        let kept = |views: &TeacherViews| Kept::new(folder.path(), &teacher, &set, views, [6, teacher.n_features()]);
        assert_eq!(kept(&views).read(), Ok(None));
        let values: Vec<f32> = (0..6 * teacher.n_features()).map(|i| i as f32).collect();
        kept(&views).write(&values).unwrap();
        let bytes = kept(&views).read().unwrap().unwrap();
        assert_eq!(bytemuck::pod_collect_to_vec::<u8, f32>(&bytes), values);

        let file = folder.path().join(FILE);
        let whole = std::fs::read(&file).unwrap();
        let other = TeacherViews { seed: 2, recipe: Recipe::STRONG, ..views };
        assert_eq!(kept(&other).read().unwrap_err(), "of other inputs (recipe, seed)");
        let mut damaged = whole.clone();
        damaged[whole.len() - 3] ^= 4;
        std::fs::write(&file, &damaged).unwrap();
        assert_eq!(kept(&views).read().unwrap_err(), "damaged: its data is not what was written");
        std::fs::write(&file, &whole[..whole.len() - 3]).unwrap();
        let reason = kept(&views).read().unwrap_err();
        assert!(reason.starts_with("damaged safetensors file: truncated") && reason.lines().count() == 1, "{reason}");
        std::fs::copy(&path, &file).unwrap();
        let reason = kept(&views).read().unwrap_err();
        assert_eq!(reason, "of other inputs (format, images, kind, recipe, seed, teacher, views)");
        // As many features of another shape, under the same inputs.
        std::fs::write(&file, &whole).unwrap();
        let wider = Kept { shape: [3, 2 * teacher.n_features()], ..kept(&views) };
        assert_eq!(wider.read().unwrap_err(), "holds features [6, 16], features [3, 32] wanted");
    }
}
