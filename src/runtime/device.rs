//! Adapter choice, and what an adapter can do as plain numbers.

use super::RuntimeOptions;
use crate::{Error, Result};
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;
use std::str::FromStr;

/// Which adapter to use: a back end, and an index or a part of the adapter's name.
///
/// Parsed from `auto|vulkan|metal|dx12|gl[:INDEX or name part]`.
///
/// ```
/// use leanvision::DeviceChoice;
/// let choice: DeviceChoice = "vulkan:llvmpipe".parse().unwrap();
/// assert_eq!(choice.to_string(), "vulkan:llvmpipe");
/// assert!("cuda".parse::<DeviceChoice>().is_err());
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceChoice {
    api: Api,
    pick: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Api {
    #[default]
    Auto,
    Vulkan,
    Metal,
    Dx12,
    Gl,
}

impl Api {
    const ALL: [(Self, &'static str); 5] = [
        (Self::Auto, "auto"),
        (Self::Vulkan, "vulkan"),
        (Self::Metal, "metal"),
        (Self::Dx12, "dx12"),
        (Self::Gl, "gl"),
    ];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(api, _)| *api == self).map_or("auto", |(_, name)| name)
    }

    fn backends(self) -> wgpu::Backends {
        match self {
            Self::Auto => wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12,
            Self::Vulkan => wgpu::Backends::VULKAN,
            Self::Metal => wgpu::Backends::METAL,
            Self::Dx12 => wgpu::Backends::DX12,
            Self::Gl => wgpu::Backends::GL,
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (api, pick) = match text.split_once(':') {
            Some((api, pick)) => (api, Some(pick.trim().to_owned())),
            None => (text, None),
        };
        let Some((api, _)) = Api::ALL.iter().find(|(_, name)| *name == api.trim().to_ascii_lowercase()) else {
            return Err(Error::Input(format!(
                "unknown device '{text}': expected auto, vulkan, metal, dx12 or gl, then optionally ':' and an index or a part of the adapter's name"
            )));
        };
        if pick.as_deref() == Some("") {
            return Err(Error::Input(format!("device '{text}': nothing after ':'")));
        }
        Ok(Self { api: *api, pick })
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.api.name())?;
        self.pick.as_ref().map_or(Ok(()), |pick| write!(f, ":{pick}"))
    }
}

/// One word of a list. Written out, serde would take the type for text borrowed from the input.
type Word = &'static str;

const KINDS: &[Word] = &["discrete", "integrated", "virtual", "cpu", "other"];
const BACKENDS: &[Word] = &["vulkan", "metal", "dx12", "gl", "simulated", "other"];

fn word<'de, D: Deserializer<'de>>(words: &'static [Word], deserializer: D) -> std::result::Result<Word, D::Error> {
    let text = String::deserialize(deserializer)?;
    let known = words.iter().find(|word| **word == text);
    known.copied().ok_or_else(|| serde::de::Error::unknown_variant(&text, words))
}

fn kind<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Word, D::Error> {
    word(KINDS, deserializer)
}

fn backend<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Word, D::Error> {
    word(BACKENDS, deserializer)
}

/// What an adapter is and can do, as plain numbers; printed with every measured figure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceProfile {
    /// The adapter's name.
    pub name: String,
    /// PCI vendor id.
    pub vendor: u32,
    /// `discrete`, `integrated`, `virtual`, `cpu` or `other`.
    #[serde(deserialize_with = "kind")]
    pub kind: Word,
    /// The driver's name.
    pub driver: String,
    /// The driver's version line.
    pub driver_info: String,
    /// `vulkan`, `metal`, `dx12`, `gl` or `simulated`.
    #[serde(deserialize_with = "backend")]
    pub backend: Word,
    /// Smallest subgroup, in invocations; 0 without subgroups.
    pub subgroup_min: u32,
    /// Largest subgroup, in invocations; 0 without subgroups.
    pub subgroup_max: u32,
    /// Optional abilities in use.
    pub features: DeviceFeatures,
    /// Sizes in force.
    pub limits: DeviceLimits,
}

/// Optional abilities of a device that kernels may ask for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceFeatures {
    /// Subgroup operations.
    pub subgroup: bool,
    /// 16-bit floats in shaders and buffers.
    pub f16: bool,
    /// Immediates (push constants); without them parameters go through a uniform buffer.
    pub immediates: bool,
    /// Timestamps around compute passes.
    pub timestamps: bool,
    /// Compiled pipelines can be kept on disk.
    pub pipeline_cache: bool,
    /// Cooperative matrices (tensor cores) of 16 x 16, with f16 operands and f32 sums.
    pub cooperative_16: bool,
    /// Cooperative matrices of 8 x 8, with f16 operands and f32 sums.
    pub cooperative_8: bool,
}

/// Sizes in force on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceLimits {
    /// Largest buffer, in bytes.
    pub buffer_bytes: u64,
    /// Largest range a kernel can be given, in bytes.
    pub binding_bytes: u64,
    /// Storage buffers of one kernel.
    pub storage_buffers: u32,
    /// Workgroup memory, in bytes.
    pub workgroup_bytes: u32,
    /// Invocations of one workgroup.
    pub workgroup_threads: u32,
    /// Invocations of one workgroup along x.
    pub workgroup_size_x: u32,
    /// Workgroups per dimension of one dispatch.
    pub groups_per_dimension: u32,
    /// Alignment of a binding's start, in bytes.
    pub offset_alignment: u32,
}

impl DeviceProfile {
    /// `cooperative`: what [`cooperative_sizes`] says of the adapter.
    pub(super) fn new(
        info: &wgpu::AdapterInfo,
        features: wgpu::Features,
        limits: &wgpu::Limits,
        cooperative: [bool; 2],
    ) -> Self {
        let has = |feature| features.contains(feature);
        let [cooperative_16, cooperative_8] =
            cooperative.map(|usable| usable && has(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX));
        let subgroup = has(wgpu::Features::SUBGROUP);
        Self {
            name: info.name.clone(),
            vendor: info.vendor,
            kind: match info.device_type {
                wgpu::DeviceType::DiscreteGpu => "discrete",
                wgpu::DeviceType::IntegratedGpu => "integrated",
                wgpu::DeviceType::VirtualGpu => "virtual",
                wgpu::DeviceType::Cpu => "cpu",
                wgpu::DeviceType::Other => "other",
            },
            driver: info.driver.clone(),
            driver_info: info.driver_info.clone(),
            backend: backend_name(info.backend),
            subgroup_min: if subgroup { info.subgroup_min_size } else { 0 },
            subgroup_max: if subgroup { info.subgroup_max_size } else { 0 },
            features: DeviceFeatures {
                subgroup,
                f16: has(wgpu::Features::SHADER_F16),
                immediates: has(wgpu::Features::IMMEDIATES) && limits.max_immediate_size >= super::PARAMS_BYTES,
                timestamps: has(wgpu::Features::TIMESTAMP_QUERY),
                pipeline_cache: has(wgpu::Features::PIPELINE_CACHE),
                cooperative_16,
                cooperative_8,
            },
            limits: DeviceLimits {
                buffer_bytes: limits.max_buffer_size,
                binding_bytes: limits.max_storage_buffer_binding_size,
                storage_buffers: limits.max_storage_buffers_per_shader_stage,
                workgroup_bytes: limits.max_compute_workgroup_storage_size,
                workgroup_threads: limits.max_compute_invocations_per_workgroup,
                workgroup_size_x: limits.max_compute_workgroup_size_x,
                groups_per_dimension: limits.max_compute_workgroups_per_dimension,
                offset_alignment: limits.min_storage_buffer_offset_alignment,
            },
        }
    }

    /// Whether the adapter runs on the CPU.
    #[must_use]
    pub fn is_software(&self) -> bool {
        if self.kind == "cpu" {
            return true;
        }
        let name = self.name.to_ascii_lowercase();
        name.contains("llvmpipe") || name.contains("swiftshader")
    }

    /// Rounds that one invocation may go in all its loops together: [`super::LOOP_ROUNDS`] on software adapters, no limit
    /// elsewhere.
    #[must_use]
    pub fn loop_rounds(&self) -> usize {
        if self.is_software() { super::LOOP_ROUNDS } else { usize::MAX }
    }

    /// The subgroup size, if the adapter only ever uses one.
    #[must_use]
    pub fn fixed_subgroup(&self) -> Option<u32> {
        (self.features.subgroup && self.subgroup_min == self.subgroup_max && self.subgroup_min > 0)
            .then_some(self.subgroup_min)
    }
}

impl fmt::Display for DeviceProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, {} {})", self.name, self.backend, self.driver, self.driver_info)
    }
}

fn backend_name(backend: wgpu::Backend) -> &'static str {
    match backend {
        wgpu::Backend::Vulkan => "vulkan",
        wgpu::Backend::Metal => "metal",
        wgpu::Backend::Dx12 => "dx12",
        wgpu::Backend::Gl => "gl",
        _ => "other",
    }
}

/// The features leanvision uses where `adapter` has them, for hosts that create the device themselves.
///
/// Those of [`cooperative_features`] are not among them: they are experimental, and a host decides for its whole process.
#[must_use]
pub fn required_features(adapter: &wgpu::Adapter) -> wgpu::Features {
    adapter.features()
        & (wgpu::Features::SUBGROUP
            | wgpu::Features::SHADER_F16
            | wgpu::Features::IMMEDIATES
            | wgpu::Features::TIMESTAMP_QUERY
            | wgpu::Features::PIPELINE_CACHE)
}

/// What a host asks for besides [`required_features`] to get kernels on cooperative matrices (tensor cores): nothing
/// where `adapter` has none that they can use.
///
/// wgpu hands the feature out only to a [`wgpu::DeviceDescriptor`] whose `experimental_features` are
/// [`wgpu::ExperimentalFeatures::enabled`]. The device then goes to [`Runtime::from_adapter`](super::Runtime::from_adapter)
/// with [`RuntimeOptions::cooperative_matrix`] set.
#[must_use]
pub fn cooperative_features(adapter: &wgpu::Adapter) -> wgpu::Features {
    if cooperative_sizes(adapter) == [false; 2] {
        return wgpu::Features::empty();
    }
    wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX
}

/// Whether an adapter has cooperative matrices of 16 x 16 x 16 and of 8 x 8 x 8 with f16 operands and f32 sums.
pub(super) fn cooperative_sizes(adapter: &wgpu::Adapter) -> [bool; 2] {
    use wgpu::CooperativeScalarType::{F16, F32};
    let features =
        wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX | wgpu::Features::SUBGROUP | wgpu::Features::SHADER_F16;
    if !adapter.features().contains(features) {
        return [false; 2];
    }
    let all = adapter.cooperative_matrix_properties();
    [16, 8].map(|size| {
        all.iter().any(|p| {
            [p.m_size, p.n_size, p.k_size] == [size; 3]
                && (p.ab_type, p.cr_type, p.saturating_accumulation) == (F16, F32, false)
        })
    })
}

/// The limits leanvision asks of `adapter`, for hosts that create the device themselves: all it has, but at most
/// 65,535 workgroups per dimension and a modest descriptor heap.
#[must_use]
pub fn required_limits(adapter: &wgpu::Adapter) -> wgpu::Limits {
    let mut limits = adapter.limits();
    limits.max_compute_workgroups_per_dimension = limits.max_compute_workgroups_per_dimension.min(65_535);
    limits.max_non_sampler_bindings = limits.max_non_sampler_bindings.min(200_000);
    limits
}

/// Every adapter of this machine that can run compute shaders.
///
/// # Errors
/// None today; a back end that fails to start has no adapters.
pub fn list_devices() -> Result<Vec<DeviceProfile>> {
    let adapters = [Api::Auto, Api::Gl].into_iter().flat_map(|api| adapters(&instance(api), api));
    let profile = |a: wgpu::Adapter| {
        let features = required_features(&a) | cooperative_features(&a);
        DeviceProfile::new(&a.get_info(), features, &required_limits(&a), cooperative_sizes(&a))
    };
    Ok(adapters.map(profile).collect())
}

fn instance(api: Api) -> wgpu::Instance {
    let mut desc = wgpu::InstanceDescriptor::new_without_display_handle();
    desc.backends = api.backends();
    // No validation layers: they are a developer's tool and warn on every machine without them.
    desc.flags = wgpu::InstanceFlags::empty().with_env();
    wgpu::Instance::new(desc)
}

fn adapters(instance: &wgpu::Instance, api: Api) -> Vec<wgpu::Adapter> {
    let mut found = pollster::block_on(instance.enumerate_adapters(api.backends()));
    let needed = wgpu::DownlevelFlags::COMPUTE_SHADERS;
    found.retain(|a| a.get_downlevel_capabilities().flags.contains(needed));
    // Stable, so that adapters of one kind keep the driver's order.
    found.sort_by_key(|a| match a.get_info().device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    });
    found
}

pub(super) fn choose(choice: &DeviceChoice) -> Result<wgpu::Adapter> {
    let apis: &[Api] = if choice.api == Api::Auto { &[Api::Auto, Api::Gl] } else { std::slice::from_ref(&choice.api) };
    let mut seen = Vec::new();
    for &api in apis {
        let found = adapters(&instance(api), api);
        seen.extend(found.iter().map(|a| format!("{} ({})", a.get_info().name, backend_name(a.get_info().backend))));
        let picked = match choice.pick.as_deref() {
            None => found.into_iter().next(),
            Some(pick) => match pick.parse::<usize>() {
                Ok(index) => found.into_iter().nth(index),
                Err(_) => {
                    let pick = pick.to_ascii_lowercase();
                    found.into_iter().find(|a| a.get_info().name.to_ascii_lowercase().contains(&pick))
                }
            },
        };
        if let Some(adapter) = picked {
            return Ok(adapter);
        }
    }
    let seen = if seen.is_empty() { "no adapter at all".to_owned() } else { seen.join(", ") };
    Err(Error::NoAdapter(format!("looked for '{choice}', found {seen}. {}", how_to_get_one())))
}

fn how_to_get_one() -> &'static str {
    if cfg!(target_os = "linux") {
        "Install a GPU driver with Vulkan, or the software one (Debian, Ubuntu: apt install mesa-vulkan-drivers; Fedora: dnf install mesa-vulkan-drivers; Arch: pacman -S vulkan-swrast)"
    } else if cfg!(target_os = "windows") {
        "Install the GPU vendor's driver, which brings DX12 and Vulkan"
    } else {
        "Metal comes with macOS; a virtual machine may have no adapter"
    }
}

pub(super) fn open(adapter: &wgpu::Adapter, options: &RuntimeOptions) -> Result<(wgpu::Device, wgpu::Queue)> {
    let (mut features, limits) = if options.default_limits {
        (wgpu::Features::empty(), wgpu::Limits::default())
    } else {
        (required_features(adapter), required_limits(adapter))
    };
    let mut experimental_features = wgpu::ExperimentalFeatures::disabled();
    if options.cooperative_matrix && !options.default_limits {
        let cooperative = cooperative_features(adapter);
        if cooperative.is_empty() {
            let name = adapter.get_info().name;
            log::warn!("{name}: no cooperative matrices with f16 operands and f32 sums, going on without");
        } else {
            features |= cooperative;
            #[expect(unsafe_code, reason = "wgpu marks features that it has not tried enough unsafe")]
            // SAFETY: the user asked for it, and cooperative matrices are the one experimental feature requested. The
            // kernels that use them load and store inside their buffers (the simulator checks each element) and are
            // reached by whole subgroups.
            let enabled = unsafe { wgpu::ExperimentalFeatures::enabled() };
            experimental_features = enabled;
        }
    }
    let desc = wgpu::DeviceDescriptor {
        label: Some("leanvision"),
        required_features: features,
        required_limits: limits,
        experimental_features,
        // The pool above already keeps blocks; the driver's own block allocator would keep them twice.
        memory_hints: wgpu::MemoryHints::MemoryUsage,
        ..Default::default()
    };
    pollster::block_on(adapter.request_device(&desc))
        .map_err(|e| Error::Device(format!("{} gave no device: {e}", adapter.get_info().name)))
}

/// A device of the back end that does nothing.
#[cfg(feature = "sim")]
pub(super) fn open_noop() -> Result<(wgpu::Device, wgpu::Queue)> {
    let mut desc = wgpu::InstanceDescriptor::new_without_display_handle();
    desc.backends = wgpu::Backends::NOOP;
    desc.backend_options.noop = wgpu::NoopBackendOptions::enabled();
    let adapters = pollster::block_on(wgpu::Instance::new(desc).enumerate_adapters(wgpu::Backends::NOOP));
    let adapter =
        adapters.first().ok_or_else(|| Error::NoAdapter("wgpu was built without its noop back end".into()))?;
    open(adapter, &RuntimeOptions { default_limits: true, ..RuntimeOptions::default() })
}
