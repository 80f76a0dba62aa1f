//! Compiled kernels, kept by (kernel, element types, override values), and on disk where the back end can.

use super::Inner;
use super::kernel::{Bind, Kernel};
use crate::tensor::DType;
use crate::{Error, Result};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    family: &'static str,
    entry: &'static str,
    types: Vec<DType>,
    overrides: Vec<(&'static str, u32)>,
}

impl Key {
    pub(super) fn new(kernel: &Kernel, types: &[DType], overrides: &[(&'static str, u32)]) -> Self {
        Self { family: kernel.family, entry: kernel.entry, types: types.to_vec(), overrides: overrides.to_vec() }
    }
}

#[derive(Debug)]
pub(super) struct Pipeline {
    pub(super) id: u64,
    pub(super) raw: wgpu::ComputePipeline,
    pub(super) layout: wgpu::BindGroupLayout,
    pub(super) label: String,
}

/// An entry's pipelines: a few, by element types and override values.
type Built = Vec<(Key, Arc<Pipeline>)>;

#[derive(Debug, Default)]
pub(super) struct Pipelines {
    /// By family and entry: looking one up allocates nothing.
    built: Mutex<HashMap<(&'static str, &'static str), Built>>,
    layouts: Mutex<HashMap<(Vec<Bind>, bool), wgpu::BindGroupLayout>>,
    next_id: AtomicU64,
    disk: Option<Disk>,
    /// What modules are salted with; 0 leaves them as they are.
    salt: AtomicU32,
}

#[derive(Debug)]
struct Disk {
    path: PathBuf,
    cache: wgpu::PipelineCache,
    grown: AtomicBool,
}

const MAX_CACHE_BYTES: usize = 64 << 20;

impl Pipelines {
    pub(super) fn new(device: &wgpu::Device, info: &wgpu::AdapterInfo, cache: Option<&Path>) -> Self {
        let disk = cache
            .filter(|_| device.features().contains(wgpu::Features::PIPELINE_CACHE))
            .and_then(|folder| Disk::open(device, info, folder));
        Self { disk, ..Self::default() }
    }

    /// Forgets what was built; what is built from now on is salted.
    pub(super) fn forget(&self, salt: u32) {
        self.salt.store(salt, Ordering::Relaxed);
        lock(&self.built).clear();
    }

    /// Pipelines made so far.
    pub(super) fn n_made(&self) -> u64 {
        self.next_id.load(Ordering::Relaxed)
    }

    pub(super) fn get(
        &self,
        inner: &Inner,
        kernel: &Kernel,
        types: &[DType],
        overrides: &[(&'static str, u32)],
    ) -> Result<Arc<Pipeline>> {
        let entry = (kernel.family, kernel.entry);
        let wanted = |(key, _): &&(Key, Arc<Pipeline>)| key.types == types && key.overrides == overrides;
        if let Some((_, pipeline)) = lock(&self.built).get(&entry).and_then(|all| all.iter().find(wanted)) {
            return Ok(Arc::clone(pipeline));
        }
        // Built outside the lock, so that several threads can compile at once.
        let pipeline = Arc::new(self.build(inner, kernel, types, overrides)?);
        let mut built = lock(&self.built);
        let all = built.entry(entry).or_default();
        if let Some((_, first)) = all.iter().find(wanted) {
            return Ok(Arc::clone(first));
        }
        all.push((Key::new(kernel, types, overrides), Arc::clone(&pipeline)));
        Ok(pipeline)
    }

    fn build(
        &self,
        inner: &Inner,
        kernel: &Kernel,
        types: &[DType],
        overrides: &[(&'static str, u32)],
    ) -> Result<Pipeline> {
        let label = kernel.label();
        check(inner, kernel, types, overrides)?;
        let uniform = kernel.params_bytes > 0 && !inner.profile.features.immediates;
        let mut module = kernel.module(types, uniform)?;
        match self.salt.load(Ordering::Relaxed) {
            0 => {}
            salt => super::salt::salt(&mut module, salt),
        }
        let known = |name: &str| module.overrides.iter().any(|(_, o)| o.name.as_deref() == Some(name));
        let constants: Vec<(&str, f64)> =
            overrides.iter().filter(|(name, _)| known(name)).map(|(name, value)| (*name, f64::from(*value))).collect();

        let validation = inner.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let internal = inner.device.push_error_scope(wgpu::ErrorFilter::Internal);
        let desc = wgpu::ShaderModuleDescriptor {
            label: Some(&label),
            source: wgpu::ShaderSource::Naga(std::borrow::Cow::Owned(module)),
        };
        let module = if inner.options.checked != Some(false) {
            inner.device.create_shader_module(desc)
        } else {
            #[expect(unsafe_code, reason = "wgpu marks modules without run-time checks unsafe")]
            // SAFETY: every kernel of the registry guards its indices itself (the guarded, checked test runs show it),
            // its loops end by their parameters, and indices that come from files are range-checked when loaded.
            unsafe {
                inner.device.create_shader_module_trusted(desc, wgpu::ShaderRuntimeChecks::unchecked())
            }
        };
        let layout = self.layout(inner, kernel, uniform);
        let pipeline_layout = inner.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(&label),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: if uniform { 0 } else { kernel.params_bytes as u32 },
        });
        let raw = inner.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(&label),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some(kernel.entry),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &constants,
                // Kernels fill their own tiles; zeroing them costs seconds of start-up on some drivers.
                zero_initialize_workgroup_memory: false,
            },
            cache: self.disk.as_ref().map(|disk| &disk.cache),
        });
        let errors = [pollster::block_on(internal.pop()), pollster::block_on(validation.pop())];
        if let Some(error) = errors.into_iter().flatten().next() {
            return Err(Error::Kernel { kernel: label, message: error.to_string() });
        }
        if let Some(disk) = &self.disk {
            disk.grown.store(true, Ordering::Relaxed);
        }
        Ok(Pipeline { id: self.next_id.fetch_add(1, Ordering::Relaxed), raw, layout, label })
    }

    /// Layouts are explicit and shared: wgpu never shares those it makes itself.
    fn layout(&self, inner: &Inner, kernel: &Kernel, uniform: bool) -> wgpu::BindGroupLayout {
        let storage = kernel.binds.iter().map(|bind| wgpu::BindingType::Buffer {
            ty: wgpu::BufferBindingType::Storage { read_only: *bind == Bind::Read },
            has_dynamic_offset: false,
            min_binding_size: None,
        });
        let params = uniform.then_some(wgpu::BindingType::Buffer {
            ty: wgpu::BufferBindingType::Uniform,
            has_dynamic_offset: true,
            min_binding_size: None,
        });
        let entries: Vec<_> = storage
            .chain(params)
            .enumerate()
            .map(|(i, ty)| wgpu::BindGroupLayoutEntry {
                binding: i as u32,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty,
                count: None,
            })
            .collect();
        lock(&self.layouts)
            .entry((kernel.binds.to_vec(), uniform))
            .or_insert_with(|| {
                inner
                    .device
                    .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries })
            })
            .clone()
    }

    /// Writes what was compiled to the disk cache; failures only cost time at the next start.
    pub(super) fn save(&self) {
        let Some(disk) = &self.disk else { return };
        if !disk.grown.load(Ordering::Relaxed) {
            return;
        }
        let Some(data) = disk.cache.get_data().filter(|data| data.len() <= MAX_CACHE_BYTES) else { return };
        let temporary = disk.path.with_extension(format!("{}.tmp", std::process::id()));
        let written = std::fs::write(&temporary, data).and_then(|()| std::fs::rename(&temporary, &disk.path));
        if let Err(error) = written {
            log::debug!("pipeline cache {}: {error}", disk.path.display());
            let _ = std::fs::remove_file(&temporary);
        }
    }
}

impl Disk {
    fn open(device: &wgpu::Device, info: &wgpu::AdapterInfo, folder: &Path) -> Option<Self> {
        std::fs::create_dir_all(folder).ok()?;
        let path = folder.join(wgpu::util::pipeline_cache_key(info)?);
        let data = std::fs::read(&path).ok().filter(|data| data.len() <= MAX_CACHE_BYTES);
        #[expect(unsafe_code, reason = "wgpu marks pipeline caches from outside data unsafe")]
        // SAFETY: the file lies in the user's own cache folder, was written by `save` from `get_data` under a key of
        // this adapter and driver, and appears there only by rename, so it is whole; the driver checks its header.
        let cache = unsafe {
            device.create_pipeline_cache(&wgpu::PipelineCacheDescriptor {
                label: Some("leanvision"),
                data: data.as_deref(),
                fallback: true,
            })
        };
        Some(Self { path, cache, grown: AtomicBool::new(false) })
    }
}

/// Whether the device has what a variant needs and, in tests, the registry lists it.
pub(super) fn check(inner: &Inner, kernel: &Kernel, types: &[DType], overrides: &[(&'static str, u32)]) -> Result<()> {
    if !kernel.runs_on(&inner.profile, types) {
        return Err(Error::Feature {
            what: kernel.label(),
            feature: format!("{:?} with {types:?}", kernel.needs),
            adapter: inner.profile.name.clone(),
        });
    }
    // What the registry does not list, the shader tests never saw.
    if (inner.options.guard || cfg!(debug_assertions))
        && !(kernel.type_sets().iter().any(|set| set == types)
            && kernel.override_sets().iter().any(|set| set == overrides))
    {
        let message = format!("{types:?} with {overrides:?} is not in the registry");
        return Err(Error::Kernel { kernel: kernel.label(), message });
    }
    Ok(())
}

/// The user's cache folder for this crate: `LEANVISION_CACHE`, else the platform's.
pub(super) fn cache_folder() -> Option<PathBuf> {
    let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(dir) = var("LEANVISION_CACHE") {
        return Some(dir);
    }
    let base = if cfg!(target_os = "windows") {
        var("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        var("HOME").map(|home| home.join("Library/Caches"))
    } else {
        var("XDG_CACHE_HOME").or_else(|| var("HOME").map(|home| home.join(".cache")))
    };
    Some(base?.join("leanvision"))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
