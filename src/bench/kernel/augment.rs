use crate::Result;
use crate::bench::{Case, Level, noise, spot};
use crate::ops::augment::{CropFlip, crop_flip};
use crate::ops::random::Key;
use crate::philox::stream;
use crate::reference::{Array, augment as reference};
use crate::runtime::Runtime;
use crate::tensor::{DType, Tensor};

pub(super) fn cases(runtime: &Runtime, level: Level) -> Result<Vec<Case>> {
    let shapes: &[(usize, usize, usize)] = match level {
        Level::Tiny => &[(5, 13, 3), (4, 8, 1)],
        Level::Quick => &[(128, 32, 3)],
        Level::Full | Level::Stress => &[(128, 32, 3), (128, 28, 1), (32, 224, 3)],
    };
    let options = CropFlip { pad: 4, flip: true, key: Key::new(1, stream::CROP_FLIP, 2) };
    let mut cases = Vec::new();
    for &(b, side, c) in shapes {
        let (_, host) = noise(runtime, &[b, side, side, c], 1)?;
        let bytes: Vec<u8> = host.data.iter().map(|v| (127.5 * (v + 1.0)) as u8).collect();
        let images = Tensor::from_slice(runtime, &bytes, &host.shape)?;
        let host = Array::new(&host.shape, bytes.into_iter().map(f64::from).collect());
        let order: Vec<u32> = (0..b as u32).rev().collect();
        let ids = Tensor::from_slice(runtime, &order, &[b])?;
        let (scale, shift) =
            (Tensor::full(runtime, &[c], 0.5, DType::F32)?, Tensor::full(runtime, &[c], -3.0, DType::F32)?);
        let want = reference::crop_flip(&host, &order, &vec![0.5; c], &vec![-3.0; c], &options);
        let n = (b * side * side * c) as u64;
        cases.push(
            Case::new(
                "augment/crop_flip",
                format!("{b}x{side}x{side}x{c}"),
                move || crop_flip(&images, &ids, None, &scale, &shift, &options, DType::F32),
                move |out| Ok(spot(&out.to_vec()?, 65_536, |i| want.data[i])),
            )
            .items(b as u64, "images")
            .cost(2 * n, 5 * n)
            .tolerance(0.0),
        );
    }
    Ok(cases)
}
