//! Tests of the parts of `nn` that need no GPU.

mod checkpoint;
mod figures;
mod identify;
mod text;

use std::path::PathBuf;

use super::{Header, ModelSpec};

/// The folder of real data, or one printed line.
fn data() -> Option<PathBuf> {
    let folder = std::env::var_os("LEANVISION_DATA").map(PathBuf::from).filter(|p| p.is_dir());
    if folder.is_none() {
        eprintln!("skipped: LEANVISION_DATA names no folder");
    }
    folder
}

/// A header with the tensors of a network.
fn header_of(spec: &ModelSpec) -> Header {
    Header::from_shapes("w.safetensors", spec.plan().params.iter().map(|p| (p.name.clone(), p.shape.clone())))
}

/// The tensor names and shapes of the golden networks, by network.
fn golden_families() -> serde_json::Map<String, serde_json::Value> {
    serde_json::from_str(include_str!("../../../tests/golden/families.json")).expect("families.json is an object")
}
