//! The runtime itself: pool, guards, batches, profile, limits, errors.

use crate::support::{adapter_runtime, device_choice, options, runtime};
use leanvision::ops::{elementwise as e, matmul};
use leanvision::runtime::{DeviceFeatures, DeviceProfile, SimulatedDevice, required_features, required_limits};
use leanvision::{DType, DeviceChoice, Error, Runtime, RuntimeOptions, Tensor};

/// A runtime without guards, on an adapter.
fn plain() -> Option<Runtime> {
    adapter_runtime()?;
    let mut options = options();
    options.guard = false;
    Some(Runtime::with_options(&device_choice(), options).unwrap())
}

#[test]
fn long_chains_reuse_memory() {
    let Some(runtime) = plain() else { return };
    let mut x = Tensor::zeros(&runtime, &[1000, 100], DType::F32).unwrap();
    for _ in 0..2000 {
        x = e::affine(&x, 1.0, 1.0).unwrap();
    }
    assert!(x.to_vec::<f32>().unwrap().iter().all(|v| *v == 2000.0));
    let memory = runtime.memory();
    assert!(memory.reserved_bytes <= 4 * 440_000, "{memory:?}");
    drop(x);
    assert_eq!(runtime.memory().used_bytes, 0);
    runtime.trim().unwrap();
    assert_eq!(runtime.memory().reserved_bytes, 0);
}

#[test]
fn uploads_do_not_overtake_recorded_work() {
    let Some(runtime) = plain() else { return };
    let mut sums = Vec::new();
    for i in 0..200 {
        // The block of `x` goes back to the pool while the kernel that reads it is still only recorded.
        let x = Tensor::from_slice(&runtime, &[i as f32; 64], &[64]).unwrap();
        sums.push(e::affine(&x, 2.0, 0.0).unwrap());
    }
    for (i, sum) in sums.iter().enumerate() {
        assert_eq!(sum.to_vec::<f32>().unwrap(), [2.0 * i as f32; 64]);
    }
}

#[test]
fn a_full_device_says_what_was_asked_and_what_is_held() {
    let Some(_) = adapter_runtime() else { return };
    let mut options = options();
    options.guard = false;
    options.memory_limit = Some(1 << 20);
    let runtime = Runtime::with_options(&device_choice(), options).unwrap();
    let held = Tensor::zeros(&runtime, &[100_000], DType::F32).unwrap();
    let error = Tensor::zeros(&runtime, &[200_000], DType::F32).unwrap_err();
    assert!(matches!(error, Error::OutOfMemory { .. }), "{error}");
    assert!(error.to_string().contains("bytes in tensors"), "{error}");
    // What the pool holds free is given back before giving up.
    drop(held);
    assert!(Tensor::zeros(&runtime, &[200_000], DType::F32).is_ok());
}

#[test]
fn tensors_past_the_limits_name_asked_and_limit() {
    let Some(runtime) = runtime() else { return };
    let limit = runtime.profile().limits.binding_bytes.min(runtime.profile().limits.buffer_bytes);
    let n = (limit / 4 + 1) as usize;
    let error = Tensor::zeros(&runtime, &[n], DType::F32).unwrap_err().to_string();
    assert!(error.contains(&limit.to_string()) || error.contains("32 bits"), "{error}");
}

#[test]
fn guards_see_a_write_past_the_end() {
    let Some(runtime) = adapter_runtime() else { return };
    let x = Tensor::zeros(&runtime, &[4], DType::F32).unwrap();
    assert_eq!(runtime.damaged_guards().unwrap(), 0);
    // A wgpu write behind the tensor's 16 bytes stands for a kernel that runs too far.
    let x2 = Tensor::zeros(&runtime, &[4], DType::F32).unwrap();
    let buffer = x2.raw_buffer().clone();
    runtime.flush().unwrap();
    runtime.queue().write_buffer(&buffer, 20, &[0; 4]);
    assert_eq!(runtime.damaged_guards().unwrap(), 1);
    drop((x, x2));
}

#[test]
fn fresh_memory_is_poisoned_in_guarded_runtimes() {
    let Some(runtime) = adapter_runtime() else { return };
    let x = Tensor::zeros(&runtime, &[8], DType::F32).unwrap();
    let words = x.raw_buffer().size();
    assert!(words > 8 * 4, "the guard lies inside the buffer");
    assert_eq!(x.to_vec::<f32>().unwrap(), [0.0; 8]);
}

#[test]
fn profile_lists_every_dispatch() {
    let Some(runtime) = plain() else { return };
    if !runtime.profile().features.timestamps {
        eprintln!("skipped: no timestamps on {}", runtime.profile());
        return;
    }
    let mut options = RuntimeOptions::default();
    options.profile = true;
    options.pipeline_cache = false;
    let runtime = Runtime::with_options(&device_choice(), options).unwrap();
    let x = Tensor::full(&runtime, &[1_000_000], 0.5, DType::F32).unwrap();
    for _ in 0..3 {
        e::exp(&x).unwrap();
    }
    let profile = runtime.take_profile().unwrap();
    let rows = profile.rows();
    let exp = rows.iter().find(|r| r.kernel == "elementwise/unary_fwd").unwrap();
    assert_eq!(exp.calls, 3);
    assert!(exp.ms > 0.0 && exp.gbps > 0.0, "{profile}");
    let trace = profile.chrome_trace();
    assert_eq!(trace["traceEvents"].as_array().unwrap().len(), 4);
    assert!(runtime.take_profile().unwrap().spans.is_empty());
}

#[test]
fn parameters_pass_through_uniforms_where_there_are_no_immediates() {
    let Some(_) = adapter_runtime() else { return };
    let mut options = options();
    options.default_limits = true;
    let runtime = Runtime::with_options(&device_choice(), options).unwrap();
    assert!(!runtime.profile().features.immediates);
    let mut x = Tensor::zeros(&runtime, &[10], DType::F32).unwrap();
    for i in 0..1200 {
        x = e::affine(&x, 1.0, i as f32).unwrap();
    }
    assert_eq!(x.to_vec::<f32>().unwrap(), [719_400.0; 10]);
    assert_eq!(runtime.damaged_guards().unwrap(), 0);
}

#[test]
fn a_host_keeps_its_device_and_lends_its_buffers() {
    let Some(own) = plain() else { return };
    let host = Runtime::with_options(&device_choice(), options()).unwrap();
    let (device, queue) = (host.device().clone(), host.queue().clone());
    let info = device.adapter_info();
    let runtime = Runtime::from_device(&info, device.clone(), queue.clone(), RuntimeOptions::default());
    let buffer = device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: 64,
        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    queue.write_buffer(&buffer, 0, bytemuck::cast_slice(&[3.0_f32; 16]));
    let x = Tensor::from_buffer(&runtime, buffer.clone(), &[16], DType::F32).unwrap();
    assert_eq!(e::square(&x).unwrap().to_vec::<f32>().unwrap(), [9.0; 16]);
    assert!(Tensor::from_buffer(&runtime, buffer, &[17], DType::F32).is_err());
    drop((x, runtime));
    // The device outlives the runtime that borrowed it.
    assert!(Tensor::zeros(&host, &[4], DType::F32).unwrap().to_vec::<f32>().is_ok());
    drop(own);
}

#[test]
fn cooperative_matrices_may_be_asked_of_any_adapter() {
    let Some(_) = adapter_runtime() else { return };
    let mut asked = options();
    asked.cooperative_matrix = true;
    let runtime = Runtime::with_options(&device_choice(), asked.clone()).unwrap();
    let features = runtime.profile().features;
    // Neither where the adapter has none, nor where nobody asked.
    asked.cooperative_matrix = false;
    let usual = Runtime::with_options(&device_choice(), asked).unwrap().profile().features;
    assert!(!usual.cooperative_16 && !usual.cooperative_8);
    let without = DeviceFeatures { cooperative_16: false, cooperative_8: false, ..features };
    assert_eq!(without, usual);
    // Tensor cores or not, products come out right.
    if features.f16 {
        let x = Tensor::full(&runtime, &[40, 36], 0.5, DType::F16).unwrap();
        let product = matmul::matmul(&x, &x.transpose().unwrap()).unwrap();
        assert!(product.to_vec::<half::f16>().unwrap().iter().all(|v| *v == half::f16::from_f32(9.0)));
    }
    assert_eq!(runtime.damaged_guards().unwrap(), 0);
}

#[test]
fn a_host_may_lend_its_adapter_too() {
    let Some(_) = adapter_runtime() else { return };
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()));
    let Some(adapter) = adapters.first() else { return };
    // Nothing experimental is enabled, so none of it is used, whatever the options say.
    let desc = wgpu::DeviceDescriptor {
        required_features: required_features(adapter),
        required_limits: required_limits(adapter),
        ..Default::default()
    };
    let (device, queue) = pollster::block_on(adapter.request_device(&desc)).unwrap();
    let mut options = options();
    options.cooperative_matrix = true;
    let runtime = Runtime::from_adapter(adapter, device, queue, options);
    assert!(!runtime.profile().features.cooperative_16 && !runtime.profile().features.cooperative_8);
    let x = Tensor::full(&runtime, &[5], 3.0, DType::F32).unwrap();
    assert_eq!(e::square(&x).unwrap().to_vec::<f32>().unwrap(), [9.0; 5]);
}

#[test]
fn profiles_of_before_cooperative_matrices_are_read() {
    let runtime = Runtime::simulated(SimulatedDevice::default()).unwrap();
    let mut json = serde_json::to_value(runtime.profile()).unwrap();
    let features = json["features"].as_object_mut().unwrap();
    assert!(features.remove("cooperative_16").is_some() && features.remove("cooperative_8").is_some());
    let read: DeviceProfile = serde_json::from_value(json).unwrap();
    assert!(read.features.f16 && !read.features.cooperative_16 && !read.features.cooperative_8);
}

#[test]
fn read_backs_can_be_awaited() {
    let Some(runtime) = plain() else { return };
    let x = Tensor::full(&runtime, &[5], 2.0, DType::F32).unwrap();
    let read = x.read::<f32>().unwrap();
    let more = e::square(&x).unwrap();
    let values = pollster::block_on(async { (read.await, more.read::<f32>().unwrap().await) });
    assert_eq!((values.0.unwrap(), values.1.unwrap()), (vec![2.0; 5], vec![4.0; 5]));
}

#[test]
fn threads_share_one_runtime() {
    let Some(runtime) = plain() else { return };
    std::thread::scope(|scope| {
        for t in 0..4 {
            let runtime = &runtime;
            scope.spawn(move || {
                for i in 0..50 {
                    let x = Tensor::full(runtime, &[100], (t * 100 + i) as f32, DType::F32).unwrap();
                    let y = e::affine(&x, 1.0, 0.5).unwrap().to_vec::<f32>().unwrap();
                    assert_eq!(y, [(t * 100 + i) as f32 + 0.5; 100]);
                }
            });
        }
    });
}

#[test]
fn a_lost_device_says_so_from_then_on() {
    let Some(runtime) = plain() else { return };
    let x = Tensor::full(&runtime, &[5], 2.0, DType::F32).unwrap();
    // What a driver's reset does to a device, `destroy` does on demand.
    runtime.device().destroy();
    let error = e::square(&x).and_then(|y| y.to_vec::<f32>()).unwrap_err();
    assert!(matches!(error, Error::DeviceLost(_)) && !error.is_bad_input(), "{error}");
    assert!(error.to_string().contains(&runtime.profile().name), "{error}");
    assert!(matches!(Tensor::zeros(&runtime, &[4], DType::F32), Err(Error::DeviceLost(_))));
    assert!(matches!(runtime.sync(), Err(Error::DeviceLost(_))));
}

#[test]
fn an_unknown_adapter_says_what_was_looked_for_and_found() {
    let choice: DeviceChoice = "vulkan:no such adapter".parse().unwrap();
    let error = Runtime::new(&choice).unwrap_err();
    assert!(matches!(error, Error::NoAdapter(_)) && error.is_bad_input());
    let text = error.to_string();
    assert!(text.contains("vulkan:no such adapter") && text.contains("found"), "{text}");
    assert!("cuda:0".parse::<DeviceChoice>().is_err() && "gl:".parse::<DeviceChoice>().is_err());
}

#[test]
fn step_takes_every_nth_index() {
    let Some(runtime) = runtime() else { return };
    let x: Vec<u32> = (0..35).collect();
    let x = Tensor::from_slice(&runtime, &x, &[5, 7]).unwrap();
    let every = x.step(0, 2).unwrap().step(1, 3).unwrap();
    assert_eq!(every.shape(), [3, 3]);
    assert_eq!(every.to_vec::<u32>().unwrap(), [0, 3, 6, 14, 17, 20, 28, 31, 34]);
    assert_eq!(every.contiguous().unwrap().to_vec::<u32>().unwrap(), every.to_vec::<u32>().unwrap());
    assert_eq!(x.slice(0, 1..5).unwrap().step(0, 9).unwrap().to_vec::<u32>().unwrap(), [7, 8, 9, 10, 11, 12, 13]);
    assert!(x.step(2, 1).is_err() && x.step(0, 0).is_err());
}
