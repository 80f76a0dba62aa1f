//! Every kernel with every set in use, without a GPU: parsed, compared with its registry entry, translated to every
//! language that a back end speaks.
#![allow(clippy::print_stdout, reason = "the digests are the output")]

#[path = "shaders/browser.rs"]
mod browser;

use leanvision::runtime::{Bind, COOPERATIVE_BYTES, Kernel, Need};
use leanvision::{DType, kernels};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, Module, StorageAccess};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::process::Command;

/// Kernels that a language cannot take, with the reason: f16 has no GLSL form in naga. Subgroups have one, which asks
/// for extensions; adapters without them never get such a kernel.
fn untranslatable(types: &[DType], language: &str) -> bool {
    language == "glsl" && types.contains(&DType::F16)
}

fn is_cooperative(kernel: &Kernel) -> bool {
    kernel.needs.iter().any(|need| matches!(need, Need::Cooperative(_)))
}

fn capabilities(kernel: &Kernel, types: &[DType]) -> Capabilities {
    let mut capabilities = Capabilities::IMMEDIATES | Capabilities::SUBGROUP;
    if is_cooperative(kernel) {
        capabilities |= Capabilities::COOPERATIVE_MATRIX;
    }
    if types.contains(&DType::F16) {
        capabilities |= Capabilities::SHADER_FLOAT16;
    }
    capabilities
}

/// Whether a language has what a kernel uses. Only asked for cooperative matrices, which HLSL and GLSL do not have: their
/// writers must not even be called, as one of them panics. Back ends with these languages never offer the feature.
fn speaks(language: &str, kernel: &Kernel) -> bool {
    let supported = match language {
        "spirv" => naga::back::spv::supported_capabilities(),
        "msl" => naga::back::msl::supported_capabilities(),
        "hlsl" => naga::back::hlsl::supported_capabilities(),
        _ => naga::back::glsl::supported_capabilities(),
    };
    !is_cooperative(kernel) || supported.contains(Capabilities::COOPERATIVE_MATRIX)
}

fn validate(kernel: &Kernel, module: &Module, types: &[DType]) -> Result<ModuleInfo, String> {
    Validator::new(ValidationFlags::all(), capabilities(kernel, types))
        .subgroup_stages(naga::valid::ShaderStages::COMPUTE)
        .subgroup_operations(naga::valid::SubgroupOperationSet::all())
        .validate(module)
        .map_err(|e| format!("{:?}", e.into_inner()))
}

/// Bindings and parameters as the module has them against the registry entry.
fn check_interface(kernel: &Kernel, module: &Module) -> Result<(), String> {
    let mut seen = BTreeMap::new();
    let mut params = 0;
    for (_, variable) in module.global_variables.iter() {
        let size = module.types[variable.ty].inner.size(module.to_ctx()) as usize;
        match variable.space {
            AddressSpace::Storage { access } => {
                let binding = variable.binding.as_ref().ok_or("a storage variable without a binding")?;
                let bind = if access.contains(StorageAccess::STORE) { Bind::Write } else { Bind::Read };
                if binding.group != 0 || seen.insert(binding.binding, bind).is_some() {
                    return Err(format!(
                        "binding {} of group {} is used twice or elsewhere",
                        binding.binding, binding.group
                    ));
                }
            }
            AddressSpace::Immediate => params = size,
            _ => (),
        }
    }
    let listed: BTreeMap<u32, Bind> = (0..).zip(kernel.binds.iter().copied()).collect();
    if seen != listed {
        return Err(format!("the shader binds {seen:?}, the registry lists {listed:?}"));
    }
    if params != kernel.params_bytes {
        return Err(format!("the shader's parameters have {params} bytes, Rust's {}", kernel.params_bytes));
    }
    Ok(())
}

/// One entry point with its overrides resolved.
fn resolve(
    module: &Module,
    info: &ModuleInfo,
    kernel: &Kernel,
    set: &[(&'static str, u32)],
) -> Result<(Module, ModuleInfo), String> {
    let known: BTreeSet<_> = module.overrides.iter().filter_map(|(_, o)| o.name.clone()).collect();
    if let Some((name, _)) = set.iter().find(|(name, _)| !known.contains(*name)) {
        return Err(format!("no override constant {name}"));
    }
    let constants: naga::back::PipelineConstants =
        set.iter().map(|(name, value)| ((*name).to_owned(), f64::from(*value))).collect();
    let entry = Some((naga::ShaderStage::Compute, kernel.entry));
    let (module, info) = naga::back::pipeline_constants::process_overrides(module, info, entry, &constants)
        .map_err(|e| format!("overrides {set:?}: {e}"))?;
    Ok((module.into_owned(), info.into_owned()))
}

/// Invocations and bytes of workgroup memory of a workgroup.
fn footprint(kernel: &Kernel, types: &[DType], set: &[(&'static str, u32)]) -> (u32, u32) {
    let module = kernel.module(types, false).unwrap();
    let info = validate(kernel, &module, types).unwrap();
    let (module, _) = resolve(&module, &info, kernel, set).unwrap();
    let shared = module.global_variables.iter().filter(|(_, v)| v.space == AddressSpace::WorkGroup);
    let memory = shared.map(|(_, v)| module.types[v.ty].inner.size(module.to_ctx())).sum();
    (module.entry_points[0].workgroup_size.iter().product(), memory)
}

fn spirv(module: &Module, info: &ModuleInfo, checked: bool) -> Result<Vec<u32>, String> {
    use naga::back::spv;
    let policy =
        if checked { naga::proc::BoundsCheckPolicy::Restrict } else { naga::proc::BoundsCheckPolicy::Unchecked };
    let options = spv::Options {
        lang_version: (1, 3),
        bounds_check_policies: policies(policy),
        force_loop_bounding: checked,
        ..Default::default()
    };
    spv::write_vec(module, info, &options, None).map_err(|e| format!("spirv: {e}"))
}

fn policies(policy: naga::proc::BoundsCheckPolicy) -> naga::proc::BoundsCheckPolicies {
    naga::proc::BoundsCheckPolicies { index: policy, buffer: policy, image_load: policy, binding_array: policy }
}

fn msl(module: &Module, info: &ModuleInfo, checked: bool) -> Result<String, String> {
    use naga::back::msl;
    let policy =
        if checked { naga::proc::BoundsCheckPolicy::Restrict } else { naga::proc::BoundsCheckPolicy::Unchecked };
    let options = msl::Options {
        lang_version: (3, 0),
        fake_missing_bindings: true,
        bounds_check_policies: policies(policy),
        force_loop_bounding: checked,
        ..Default::default()
    };
    msl::write_string(module, info, &options, &msl::PipelineOptions::default())
        .map(|(text, _)| text)
        .map_err(|e| format!("msl: {e}"))
}

fn hlsl(module: &Module, info: &ModuleInfo, checked: bool) -> Result<String, String> {
    use naga::back::hlsl;
    let options = hlsl::Options {
        shader_model: hlsl::ShaderModel::V6_2,
        fake_missing_bindings: true,
        restrict_indexing: checked,
        force_loop_bounding: checked,
        immediates_target: Some(hlsl::BindTarget { register: 0, space: 1, ..Default::default() }),
        ..Default::default()
    };
    let mut text = String::new();
    hlsl::Writer::new(&mut text, &options, &hlsl::PipelineOptions::default())
        .write(module, info, None)
        .map_err(|e| format!("hlsl: {e}"))?;
    Ok(text)
}

fn glsl(module: &Module, info: &ModuleInfo, kernel: &Kernel) -> Result<String, String> {
    use naga::back::glsl;
    let options = glsl::Options { version: glsl::Version::new_gles(310), ..Default::default() };
    let pipeline = glsl::PipelineOptions {
        shader_stage: naga::ShaderStage::Compute,
        entry_point: kernel.entry.to_owned(),
        multiview: None,
    };
    let mut text = String::new();
    glsl::Writer::new(&mut text, module, info, &options, &pipeline, policies(naga::proc::BoundsCheckPolicy::Restrict))
        .and_then(|mut writer| writer.write())
        .map_err(|e| format!("glsl: {e}"))?;
    Ok(text)
}

/// What an old spirv-val says of a module with cooperative matrices.
const COOPERATIVE_CAPABILITY: &str = "Invalid capability operand: 6022";

/// spirv-val's verdict over many modules; `None` where the tool is not installed.
fn spirv_val(modules: &[(String, Vec<u32>)]) -> Option<Vec<String>> {
    Command::new("spirv-val").arg("--version").output().ok()?;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (mut failures, mut unknown) = (Vec::new(), 0);
    for (i, (label, words)) in modules.iter().enumerate() {
        let path = folder.path().join(format!("{i}.spv"));
        std::fs::write(&path, words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>())
            .expect("a writable folder");
        let out =
            Command::new("spirv-val").args(["--target-env", "vulkan1.1"]).arg(&path).output().expect("spirv-val runs");
        let said = String::from_utf8_lossy(&out.stderr);
        // SPIRV-Tools of 2023 do not know cooperative matrices.
        if said.contains(COOPERATIVE_CAPABILITY) {
            unknown += 1;
        } else if !out.status.success() {
            failures.push(format!("{label}: {}", said.trim()));
        }
    }
    if unknown > 0 {
        println!("spirv-val does not know cooperative matrices: {unknown} modules were not checked by it");
    }
    Some(failures)
}

fn digest(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[test]
fn every_kernel_translates_to_every_language() {
    let mut failures = Vec::new();
    let mut modules = Vec::new();
    let mut count = 0;
    for kernel in kernels() {
        for types in kernel.type_sets() {
            let label = format!("{} {types:?}", kernel.label());
            let built = kernel.module(&types, false).map_err(|e| e.to_string()).and_then(|module| {
                check_interface(kernel, &module)?;
                let info = validate(kernel, &module, &types)?;
                Ok((module, info))
            });
            let (module, info) = match built {
                Ok(built) => built,
                Err(message) => {
                    failures.push(format!("{label}: {message}"));
                    continue;
                }
            };
            println!("{label} {:016x}", digest(&kernel.text(&types, false)));
            for set in kernel.override_sets() {
                count += 1;
                let label = format!("{label} {set:?}");
                match resolve(&module, &info, kernel, &set) {
                    Err(message) => failures.push(format!("{label}: {message}")),
                    Ok((module, info)) => {
                        for checked in [true, false] {
                            match spirv(&module, &info, checked) {
                                Ok(words) => modules.push((label.clone(), words)),
                                Err(message) => failures.push(format!("{label}: {message}")),
                            }
                            failures.extend(msl(&module, &info, checked).err().map(|e| format!("{label}: {e}")));
                            if speaks("hlsl", kernel) {
                                failures.extend(hlsl(&module, &info, checked).err().map(|e| format!("{label}: {e}")));
                            }
                        }
                        if !speaks("glsl", kernel) {
                            continue;
                        }
                        let text = glsl(&module, &info, kernel);
                        if text.is_ok() == untranslatable(&types, "glsl") {
                            let came = text.map_or_else(|e| e, |_| "translated".into());
                            failures.push(format!("{label}: glsl: {came}, against what is listed"));
                        }
                    }
                }
            }
        }
    }
    println!("{count} kernels with their override sets");
    match spirv_val(&modules) {
        Some(found) => failures.extend(found),
        None => println!("spirv-val is not installed: the SPIR-V was written but not checked by it"),
    }
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn parameters_also_work_as_uniforms() {
    for kernel in kernels() {
        let types = &kernel.type_sets()[0];
        let module = kernel.module(types, true).unwrap();
        validate(kernel, &module, types).unwrap_or_else(|e| panic!("{}: {e}", kernel.label()));
        let uniforms = module.global_variables.iter().filter(|(_, v)| v.space == AddressSpace::Uniform).count();
        assert_eq!(uniforms, usize::from(kernel.params_bytes > 0), "{}", kernel.label());
    }
}

#[test]
fn every_entry_point_is_listed_and_every_file_has_a_family() {
    let mut listed: HashMap<&str, BTreeSet<&str>> = HashMap::new();
    for kernel in kernels() {
        listed.entry(kernel.family).or_default().insert(kernel.entry);
    }
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "wgsl") {
            continue;
        }
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let entries: BTreeSet<&str> = text
            .split("@compute")
            .skip(1)
            .map(|rest| rest.split_once("fn ").unwrap().1.split('(').next().unwrap().trim())
            .collect();
        assert_eq!(listed.get(stem), Some(&entries), "{stem}.wgsl");
    }
}

#[test]
fn cooperative_kernels_fit_their_limits() {
    let mut count = 0;
    for kernel in kernels().into_iter().filter(|kernel| is_cooperative(kernel)) {
        assert!(speaks("spirv", kernel) && speaks("msl", kernel) && !speaks("hlsl", kernel) && !speaks("glsl", kernel));
        assert!(kernel.binds.len() <= 8, "{}", kernel.label());
        for set in kernel.override_sets() {
            count += 1;
            let (threads, memory) = footprint(kernel, &kernel.type_sets()[0], &set);
            // Full subgroups of every size.
            assert!(threads.is_multiple_of(128) && threads <= 256, "{}: {threads} threads", kernel.label());
            assert!(memory <= COOPERATIVE_BYTES, "{} {set:?}: {memory} bytes", kernel.label());
        }
    }
    assert!(count > 0);
}

#[test]
fn default_variants_fit_default_limits() {
    // 8 storage buffers, 16 KiB of workgroup memory, 256 threads: what every adapter of WebGPU has.
    for kernel in kernels().into_iter().filter(|k| k.needs.is_empty()) {
        assert!(kernel.binds.len() <= 8, "{}", kernel.label());
        let first = kernel.override_sets().swap_remove(0);
        let (threads, memory) = footprint(kernel, &kernel.type_sets()[0], &first);
        assert!(threads <= 256 && memory <= 16 << 10, "{}: {threads} threads, {memory} bytes", kernel.label());
    }
}
