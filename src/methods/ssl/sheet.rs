//! What views look like.

use crate::data::{ImageSet, Picture};
use crate::ops::random::Key;
use crate::ops::views::{Recipe, Views};
use crate::philox::stream;
use crate::report::sheet;
use crate::{DType, Result, Runtime, Tensor};

/// Images on a sheet: one a row.
pub const SHEET_IMAGES: usize = 8;
/// Views of each image by each recipe.
pub const SHEET_VIEWS: usize = 3;
/// Least side of an image on a sheet in pixels.
const LEAST_SIDE: usize = 96;

/// A picture of the views that a training sees: a row for each of the first images; in it the image, then its views of the first
/// epochs by the first recipe, then those by the second. View `k` of a pair is drawn as the training with this seed draws it,
/// from the stream [`stream::VIEWS`] + k, if its images lie on the device as a whole.
///
/// # Errors
/// As [`Views::make`].
pub fn views_sheet(runtime: &Runtime, set: &ImageSet, recipes: &[Recipe], seed: u64) -> Result<Picture> {
    let views: Vec<(u32, Recipe)> = (stream::VIEWS..).zip(recipes.iter().copied()).collect();
    sheet_of(runtime, set, &views, SHEET_VIEWS as u32, seed)
}

/// The same for recipes with their streams, and views of so many epochs.
pub(super) fn sheet_of(
    runtime: &Runtime,
    set: &ImageSet,
    recipes: &[(u32, Recipe)],
    epochs: u32,
    seed: u64,
) -> Result<Picture> {
    let n = SHEET_IMAGES.min(set.len());
    let (size, channels) = ([set.height, set.width], set.channels);
    let first = set.subset(0..n)?;
    let images = Tensor::from_slice(runtime, &first.images, &[n, set.height, set.width, channels])?;
    let ids: Vec<u32> = (0..n as u32).collect();
    let ids = Tensor::from_slice(runtime, &ids, &[n])?;
    // Bytes stay bytes.
    let (scale, shift) = (vec![1.0_f32; channels], vec![0.0_f32; channels]);
    let [scale, shift] = [scale, shift].map(|values| Tensor::from_slice(runtime, &values, &[channels]));
    let (scale, shift) = (scale?, shift?);
    let mut columns = vec![first.images.clone()];
    for (stream, recipe) in recipes {
        let views = Views::new(runtime, recipe, size, size)?;
        for epoch in 0..epochs {
            let key = Key::new(seed, *stream, epoch);
            let pixels = views.make(&images, &ids, None, &scale, &shift, key, DType::F32)?.to_vec::<f32>()?;
            columns.push(pixels.iter().map(|v| v.round().clamp(0.0, 255.0) as u8).collect());
        }
    }
    let n_bytes = set.image_bytes();
    let tiles: Vec<u8> = (0..n)
        .flat_map(|i| columns.iter().flat_map(move |column| &column[i * n_bytes..][..n_bytes]))
        .copied()
        .collect();
    let labels = vec![0; n * columns.len()];
    let tiles = ImageSet::new(&set.name, "views", [set.height, set.width, channels], tiles, labels, Vec::new())?;
    let scale = LEAST_SIDE.div_ceil(set.height.max(set.width));
    Ok(sheet(&tiles, tiles.len(), columns.len(), scale))
}
