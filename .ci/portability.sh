#!/usr/bin/env bash
# Runs the op rows, on their short list of shapes, on every software adapter besides the main one, the shader
# translations with spirv-val, and the kernels in a browser. Judges that are missing are named at the end: an error if
# LEANVISION_REQUIRE_PORTABILITY=1, which .ci/run sets.
set -euo pipefail
cd "$(dirname "$0")/.."
source .ci/lib.sh

missing=() failed=()

# judge NAME "TEST [FLAG..]" [VARIABLE=VALUE..]: one test binary, or those of its tests that a filter picks, in one
# environment.
judge() {
    local name=$1 start=$SECONDS test
    read -ra test <<<"$2"
    shift 2
    say "-- $name"
    if env LEANVISION_REQUIRE_GPU=1 LEANVISION_SHAPES=short "$@" cargo test --release --quiet --test "${test[@]}"; then
        say "-- $name: passed ($((SECONDS - start)) s)"
    else
        failed+=("$name")
        say "-- $name: FAILED ($((SECONDS - start)) s)"
    fi
}

# The adapter is named in LEANVISION_DEVICE, so that a driver that does not load is an error and not another adapter.
cargo test --release --no-run --test ops --test shaders --test methods

if command -v spirv-val >/dev/null; then
    judge "spirv-val" shaders
else
    missing+=("spirv-val (package spirv-tools)")
fi

if browser=$(chromium_program); then
    judge "Chromium's WebGPU" "shaders browser:: -- --nocapture" LEANVISION_BROWSER="$browser"
else
    missing+=("Chromium (package chromium)")
fi

# Not captured, so that each names its adapter. Planted faults need none.
ops="ops -- --nocapture --skip planted::"

if icd=$(swiftshader_icd); then
    swiftshader=(VK_ICD_FILENAMES="$icd" VK_DRIVER_FILES="$icd" LEANVISION_DEVICE=vulkan:SwiftShader)
    judge "SwiftShader" "$ops" "${swiftshader[@]}"
    judge "SwiftShader, training" "methods train::first_losses -- --nocapture" "${swiftshader[@]}"
else
    missing+=("SwiftShader (package chromium)")
fi

if has_software_gl; then
    judge "OpenGL, llvmpipe" "$ops" EGL_PLATFORM=surfaceless LIBGL_ALWAYS_SOFTWARE=1 LEANVISION_DEVICE=gl
else
    missing+=("software OpenGL (packages libgl1-mesa-dri, libegl1)")
fi

if icd=$(lavapipe_icd) && has_library libvulkan.so.1; then
    lavapipe=(VK_ICD_FILENAMES="$icd" VK_DRIVER_FILES="$icd" LEANVISION_DEVICE=vulkan:llvmpipe)
    judge "lavapipe, subgroups of 4" "$ops" "${lavapipe[@]}" LP_NATIVE_VECTOR_WIDTH=128
    judge "lavapipe, subgroups of 16" "$ops" "${lavapipe[@]}" LP_NATIVE_VECTOR_WIDTH=512
    judge "lavapipe, default limits" "$ops" "${lavapipe[@]}" LEANVISION_DEFAULT_LIMITS=1
else
    missing+=("lavapipe (package mesa-vulkan-drivers)")
fi

for name in "${missing[@]}"; do say "not found: $name"; done
for name in "${failed[@]}"; do say "failed: $name"; done
[[ ${#failed[@]} == 0 ]] || exit 1
[[ ${#missing[@]} == 0 || ${LEANVISION_REQUIRE_PORTABILITY:-0} != 1 ]]
