#!/usr/bin/env bash
# Makes this machine ready to build and test.
#
#   setup.sh               cargo, a C compiler and, on Linux, a Vulkan driver: the software one where there is none
#   setup.sh portability   the same, then the other software adapters and spirv-val
#
# It installs nothing that is there already. What it cannot install it names in one line and goes on, as tests without
# an adapter say so and count as skipped; LEANVISION_REQUIRE_GPU=1 makes a missing driver an error.
set -euo pipefail
cd "$(dirname "$0")/.."
source .ci/lib.sh

# rustup's folder, for shells that have not read its env file since it was installed.
PATH="$PATH:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin"

check_compilers() {
    command -v cargo >/dev/null || die "cargo is missing: install Rust from https://rustup.rs, then run this again"
    local wanted version oldest
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    version=$(cargo --version | cut -d ' ' -f 2)
    oldest=$(printf '%s\n' "$wanted" "$version" | sort -V | head -n 1)
    [[ $oldest == "$wanted" ]] ||
        die "cargo $version is too old, $wanted or newer is needed: 'rustup update', or install it from https://rustup.rs"
    # rustc links with cc. Linking a program also finds a missing libc (libc6-dev).
    local probe
    probe=$(mktemp -d)
    if ! printf 'int main(void) { return 0; }\n' | cc -x c - -o "$probe/a.out" 2>/dev/null; then
        rm -rf "$probe"
        die "a C compiler that links programs (cc) is missing: on Debian and Ubuntu 'apt-get install gcc libc6-dev'," \
            "on Fedora 'dnf install gcc', on Arch 'pacman -S gcc', on macOS 'xcode-select --install'"
    fi
    rm -rf "$probe"
}

# A driver counts if the loader is there and an ICD that can run: a software one anywhere, one for hardware only where
# the kernel shows a GPU (Mesa's packages bring ICDs for GPUs that the machine does not have).
has_vulkan() {
    has_library libvulkan.so.1 || return
    local icds
    icds=$(vulkan_icds)
    [[ -n $icds ]] || return
    [[ $icds == */lvp_icd* || $icds == *swiftshader* ]] && return
    local node
    for node in /dev/dri/renderD* /dev/nvidiactl /dev/dxg /dev/kgsl-3d0 /dev/mali0; do
        [[ -e $node ]] && return
    done
    return 1
}

# Runs a command as root: directly, or by sudo, which may only ask for a password where someone can answer.
as_root() {
    if [[ $(id -u) == 0 ]]; then
        "$@"
    elif ! command -v sudo >/dev/null; then
        say "E: this needs root, and sudo is missing"
        return 1
    elif [[ -t 0 ]]; then
        sudo "$@"
    else
        sudo -n "$@"
    fi
}

# install WHAT DEBIAN-PACKAGES FEDORA-PACKAGES ARCH-PACKAGES: one try with the system's package manager; says what it
# does, and in one line why it could not.
install() {
    local what=$1 command log reason
    if command -v apt-get >/dev/null; then
        command="apt-get install -y --no-install-recommends $2"
    elif command -v dnf >/dev/null; then
        command="dnf install -y --setopt=install_weak_deps=False $3"
    elif command -v pacman >/dev/null; then
        command="pacman -S --needed --noconfirm $4"
    else
        say "$what is missing and could not be installed: none of apt-get, dnf and pacman is here"
        return 1
    fi
    say "$what is missing, installing: $command"
    log=$(mktemp)
    # The command is a list of words. env, as sudo drops the variable otherwise.
    # shellcheck disable=SC2086
    if { [[ $command != apt-get* ]] || as_root apt-get update -q; } >"$log" 2>&1 &&
        as_root env DEBIAN_FRONTEND=noninteractive $command >>"$log" 2>&1; then
        rm -f "$log"
        return
    fi
    # apt marks its errors and the first tells most; others end with theirs.
    reason=$(grep -m 1 -E '^(E:|sudo:)' "$log" || grep -v '^$' "$log" | tail -n 1)
    rm -f "$log"
    say "$what could not be installed (${reason#E: })"
    return 1
}

setup_vulkan() {
    has_vulkan && return
    install "a Vulkan driver" "mesa-vulkan-drivers libvulkan1" "mesa-vulkan-drivers vulkan-loader" \
        "vulkan-swrast vulkan-icd-loader" && has_vulkan && return
    say "without a Vulkan driver GPU tests are skipped: install Mesa's lavapipe or your GPU's driver"
    [[ ${LEANVISION_REQUIRE_GPU:-0} != 1 ]]
}

# Each by itself, so that one that cannot be had does not keep the others out; portability.sh names what is missing.
setup_portability() {
    { swiftshader_icd && chromium_program; } >/dev/null ||
        install "Chromium with SwiftShader" chromium chromium chromium || true
    has_software_gl ||
        install "software OpenGL" "libgl1-mesa-dri libegl1" "mesa-dri-drivers mesa-libEGL" "mesa libglvnd" || true
    command -v spirv-val >/dev/null || install spirv-val spirv-tools spirv-tools spirv-tools || true
}

check_compilers
if [[ $(uname -s) == Linux ]]; then
    setup_vulkan
    if [[ ${1:-} == portability ]]; then setup_portability; fi
fi
