#!/usr/bin/env bash
# Top-1 of the six published networks on all 10,000 test images of their sets, against the number of right answers that
# an independent implementation gave; a network may differ by 3 images (ties of f32 rounding). Some 10 minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
source .ci/lib.sh

data=${LEANVISION_DATA:-}
[[ -d $data/models ]] || die "LEANVISION_DATA has to name a folder with models/, cifar-10-batches-bin/ and mnist/"
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
cargo build --release --bin classify
wrong=0

# network NAME RIGHT DATA [FLAG..]: RIGHT of 10,000; the flags are what names and shapes of the weights do not fix.
network() {
    local name=$1 right=$2 images=$3
    shift 3
    cargo run --release --quiet --bin classify -- eval --weights "$data/models/$name.safetensors" --data "$data/$images" \
        --json "$out/$name.json" --out "$out/$name" --quiet "$@" >/dev/null
    awk -v name="$name" -v right="$right" '
        function number(key) { match($0, "\"" key "\": *[0-9.]+"); s = substr($0, RSTART, RLENGTH); sub(/.*: */, "", s); return s }
        /"top1"/ { top1 = number("top1") }
        /"n"/ { n = number("n") }
        /"images_per_s"/ { rate = number("images_per_s") }
        /"adapter"/ { adapter = $0; sub(/.*"adapter": *"/, "", adapter); sub(/".*/, "", adapter) }
        END {
            off = top1 * n / 100 - right; if (off < 0) off = -off
            good = n == 10000 && off < 3.5
            printf "%-18s %5.2f %% (stated %5.2f %%)  %8.1f images/s  %s  %s\n", name, top1, right / 100, rate, adapter, good ? "ok" : "WRONG"
            exit !good
        }' "$out/$name.json" || wrong=1
}

network resnet20_cifar10 9173 cifar-10-batches-bin
network resnet32_cifar10 9263 cifar-10-batches-bin
network resnet56_cifar10 9339 cifar-10-batches-bin
network vit_small_cifar10 7373 cifar-10-batches-bin --heads 8 --norm post --act relu --normalize cifar
network vit_tiny_cifar10 5698 cifar-10-batches-bin --heads 4 --norm pre --act gelu --normalize unit
network mnist_cnn 9917 mnist --normalize 0.1307/0.3081
exit $wrong
