//! The image set itself.

use super::grouped;
use crate::{Error, Result};

/// Images of one size, 8 bits a channel, with classes or without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageSet {
    /// Pixels, `[n, height, width, channels]`, 0..=255.
    pub images: Vec<u8>,
    /// Pixels down.
    pub height: usize,
    /// Pixels across.
    pub width: usize,
    /// 1 (grey) or 3 (red, green, blue).
    pub channels: usize,
    /// Class of each image, `[n]`, each under `n_classes`; all 0 where there are no classes.
    pub labels: Vec<u32>,
    /// Name of each class, `[n_classes]`.
    pub class_names: Vec<String>,
    /// Number of classes, whether or not an image of each is here; 0 for a set without classes.
    pub n_classes: usize,
    /// What the set is called, such as `cifar-10`.
    pub name: String,
    /// What was found, for the reader of a log: `data_batch_1 and 4 sheets: 50,000 training images`.
    pub source: String,
    /// Files that could not be read and were left out ([`super::Wanted::skip_bad`]), each with the reason.
    pub skipped: Vec<String>,
}

impl ImageSet {
    /// A set from `[n, height, width, channels]` pixels, `[n]` labels and the names of all classes; without names it has no
    /// classes, and all labels are 0.
    ///
    /// # Errors
    /// [`Error::Input`] if sizes do not go together, there is no pixel, the channels are neither 1 nor 3, or a label names no class.
    pub fn new(
        name: &str,
        source: &str,
        [height, width, channels]: [usize; 3],
        images: Vec<u8>,
        labels: Vec<u32>,
        class_names: Vec<String>,
    ) -> Result<Self> {
        let wrong = |message: String| Err(Error::Input(format!("image set {name}: {message}")));
        if !matches!(channels, 1 | 3) {
            return wrong(format!("{channels} channels, wanted 1 or 3"));
        }
        let total =
            height.checked_mul(width).and_then(|n| n.checked_mul(channels)).and_then(|n| n.checked_mul(labels.len()));
        if height == 0 || width == 0 || total != Some(images.len()) {
            return wrong(format!(
                "{} bytes of pixels, wanted {} x {height} x {width} x {channels}",
                images.len(),
                labels.len()
            ));
        }
        let n_labels = class_names.len().max(1);
        if let Some((i, label)) = labels.iter().enumerate().find(|&(_, &label)| label as usize >= n_labels) {
            return wrong(format!("image {i} has label {label}, and there are {} classes", class_names.len()));
        }
        Ok(Self {
            images,
            height,
            width,
            channels,
            labels,
            n_classes: class_names.len(),
            class_names,
            name: name.to_string(),
            source: source.to_string(),
            skipped: Vec::new(),
        })
    }

    /// Whether the images have classes.
    #[must_use]
    pub fn is_labelled(&self) -> bool {
        self.n_classes > 0
    }

    /// Finds out whether the images have classes, which `what` needs.
    ///
    /// # Errors
    /// [`Error::Input`] if they have none.
    pub fn need_labels(&self, what: &str) -> Result<()> {
        if self.is_labelled() {
            return Ok(());
        }
        Err(Error::Input(format!("{}: images without classes ({}), and {what} needs classes", self.name, self.source)))
    }

    /// Number of images.
    #[must_use]
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no image.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Bytes of one image: height x width x channels.
    #[must_use]
    pub fn image_bytes(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// Pixels of image `i`, `[height, width, channels]`; `None` past the end.
    #[must_use]
    pub fn image(&self, i: usize) -> Option<&[u8]> {
        let start = i.checked_mul(self.image_bytes())?;
        self.images.get(start..start.checked_add(self.image_bytes())?)
    }

    /// Number of images of each class, `[n_classes]`.
    #[must_use]
    pub fn class_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.n_classes];
        if self.is_labelled() {
            self.labels.iter().for_each(|&label| counts[label as usize] += 1);
        }
        counts
    }

    /// The images at `indices`, in that order; an index may come twice.
    ///
    /// # Errors
    /// [`Error::Input`] for an index past the end.
    pub fn subset(&self, indices: impl IntoIterator<Item = usize>) -> Result<Self> {
        let (mut images, mut labels) = (Vec::new(), Vec::new());
        for i in indices {
            let image = self.image(i).ok_or_else(|| {
                Error::Input(format!("image set {}: image {i} asked for, there are {}", self.name, self.len()))
            })?;
            images.extend_from_slice(image);
            labels.push(self.labels[i]);
        }
        let source = format!("{} of {}", grouped(labels.len() as u64), self.source);
        let class_names = self.class_names.clone();
        let set =
            Self::new(&self.name, &source, [self.height, self.width, self.channels], images, labels, class_names)?;
        Ok(Self { skipped: self.skipped.clone(), ..set })
    }

    /// The first `n` images, or all where there are fewer.
    #[must_use]
    pub fn take(mut self, n: usize) -> Self {
        if n < self.len() {
            self.images.truncate(n * self.image_bytes());
            self.labels.truncate(n);
            self.source = format!("the first {} of {}", grouped(n as u64), self.source);
        }
        self
    }
}
