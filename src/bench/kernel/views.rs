use crate::Result;
use crate::bench::{Case, Level, noise, spot};
use crate::ops::random::Key;
use crate::ops::views::{Recipe, Views};
use crate::philox::stream;
use crate::reference::{Array, views as reference};
use crate::runtime::Runtime;
use crate::tensor::{DType, Tensor};

pub(super) fn cases(runtime: &Runtime, level: Level) -> Result<Vec<Case>> {
    // Views in a batch, side of an image, side of a view.
    let shapes: &[(usize, usize, usize)] = match level {
        Level::Tiny => &[(5, 13, 9)],
        Level::Quick => &[(128, 32, 32)],
        Level::Full | Level::Stress => &[(128, 32, 32), (32, 96, 96), (8, 256, 224)],
    };
    let key = Key::new(1, stream::VIEWS, 2);
    let mut cases = Vec::new();
    for &(b, image, side) in shapes {
        let (_, host) = noise(runtime, &[b, image, image, 3], 1)?;
        let bytes: Vec<u8> = host.data.iter().map(|v| (127.5 * (v + 1.0)) as u8).collect();
        let images = Tensor::from_slice(runtime, &bytes, &host.shape)?;
        let host = Array::new(&host.shape, bytes.into_iter().map(f64::from).collect());
        let ids: Vec<u32> = (0..b as u32).collect();
        let ids = Tensor::from_slice(runtime, &ids, &[b])?;
        let scale = Tensor::full(runtime, &[3], 1.0 / 255.0, DType::F32)?;
        let shift = Tensor::full(runtime, &[3], -0.5, DType::F32)?;
        for (name, recipe) in [("views/strong", Recipe::STRONG), ("views/weak", Recipe::WEAK)] {
            let views = Views::new(runtime, &recipe, [image; 2], [side; 2])?;
            let (images, ids, scale, shift) = (images.clone(), ids.clone(), scale.clone(), shift.clone());
            let host = host.clone();
            let check = move |out: &Tensor| {
                // The last views are enough to see a wrong kernel, and quick.
                let (n, first) = (side * side * 3, b.saturating_sub(4));
                let some: Vec<u32> = (first as u32..b as u32).collect();
                let want = reference::views(&recipe, &host, &some, [side; 2], (&[1.0 / 255.0; 3], &[-0.5; 3]), key);
                Ok(spot(&out.to_vec()?[first * n..], 20_000, |i| want.data[i]))
            };
            let n = (b * side * side) as u64;
            cases.push(
                Case::new(
                    name,
                    format!("{b}x{image}x{image} to {side}x{side}"),
                    move || views.make(&images, &ids, None, &scale, &shift, key, DType::F32),
                    check,
                )
                .items(b as u64, "views")
                .cost(0, n * 15)
                // A place in an image is rounded by 2^-24 of its side a few times, and neighbours differ by up to 1.
                .tolerance(1e-5_f64.max(2e-7 * image as f64)),
            );
        }
    }
    Ok(cases)
}
