# Shell functions that setup.sh, portability.sh and bench-classify.sh share; sourced, not run.

# One line to the user, and the same as the reason to stop.
say() { printf '%s\n' "$*" >&2; }
die() {
    say "$@"
    exit 1
}

# Whether the dynamic linker finds a shared library, by its exact name.
has_library() {
    local cache
    # ldconfig lies outside an ordinary user's PATH on Debian.
    cache=$(PATH="$PATH:/sbin:/usr/sbin" ldconfig -p 2>/dev/null) || cache=
    [[ $cache == *"$1 "* ]] && return
    local folder
    local IFS=:
    for folder in ${LD_LIBRARY_PATH:-}; do
        [[ -n $folder && -e $folder/$1 ]] && return
    done
    return 1
}

# The Vulkan driver descriptions (ICD files) that the loader would read, one path per line.
vulkan_icds() {
    local chosen=${VK_DRIVER_FILES:-${VK_ICD_FILENAMES:-}} entry
    local IFS=:
    if [[ -n $chosen ]]; then # these replace the search; an entry may be a folder
        for entry in $chosen; do
            if [[ -d $entry ]]; then
                icds_in "$entry"
            elif [[ -e $entry ]]; then
                printf '%s\n' "$entry"
            fi
        done
        return
    fi
    for entry in "${XDG_CONFIG_HOME:-${HOME:-/}/.config}" ${XDG_CONFIG_DIRS:-/etc/xdg} /usr/local/etc /etc \
        "${XDG_DATA_HOME:-${HOME:-/}/.local/share}" ${XDG_DATA_DIRS:-/usr/local/share:/usr/share}; do
        icds_in "$entry/vulkan/icd.d"
    done
}

icds_in() {
    local file
    for file in "$1"/*.json; do
        [[ -e $file ]] && printf '%s\n' "$file"
    done
    return 0
}

# The first of the given files that exists.
first_file() {
    local file
    for file; do
        [[ -f $file ]] && printf '%s\n' "$file" && return
    done
    return 1
}

# The ICD file of SwiftShader, which comes inside Chromium and is not installed as a system driver.
swiftshader_icd() {
    local name=vk_swiftshader_icd.json listed=
    if command -v dpkg >/dev/null; then
        listed=$(dpkg -L chromium chromium-common chromium-browser 2>/dev/null | grep "/$name\$") || true
    elif command -v rpm >/dev/null; then
        listed=$(rpm -ql chromium chromium-common 2>/dev/null | grep "/$name\$") || true
    elif command -v pacman >/dev/null; then
        listed=$(pacman -Qlq chromium 2>/dev/null | grep "/$name\$") || true
    fi
    first_file ${listed:+"${listed%%$'\n'*}"} /usr/lib/chromium/$name /usr/lib/chromium-browser/$name \
        /usr/lib64/chromium-browser/$name /opt/google/chrome/$name /opt/chromium.org/chromium/$name
}

# The program of Chromium or a browser made from it.
chromium_program() {
    local name
    for name in chromium chromium-browser google-chrome google-chrome-stable; do
        command -v "$name" && return
    done
    return 1
}

# The ICD file of lavapipe, Mesa's software Vulkan.
lavapipe_icd() {
    vulkan_icds | grep -m 1 '/lvp_icd[^/]*$'
}

# Whether OpenGL without a screen can run in software: EGL's loader, Mesa's EGL and its software renderer.
has_software_gl() {
    has_library libEGL.so.1 && has_library libEGL_mesa.so.0 || return
    local file
    for file in /usr/lib*/dri/swrast_dri.so /usr/lib/*/dri/swrast_dri.so /usr/lib*/libgallium*.so /usr/lib/*/libgallium*.so; do
        [[ -e $file ]] && return
    done
    return 1
}
