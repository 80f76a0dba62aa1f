#!/usr/bin/env bash
# What self-supervised learning and distillation must reach on real images (examples/learn_ssl.rs): BYOL, MSF and CMSF-2Q for 8
# epochs of 10,000 images each, beside the same network untrained, then students of a published ResNet-56. Some 40 minutes on 2
# cores; PART=cost, PART=pretrain or PART=distill does one part. A run in OUT that came to its end is not done again.
set -euo pipefail
cd "$(dirname "$0")/.."
source .ci/lib.sh

data=${LEANVISION_DATA:-}
[[ -d $data/cifar-10-batches-bin ]] || die "LEANVISION_DATA has to name a folder with cifar-10-batches-bin/"
out=${OUT:-$(mktemp -d)/ssl}
cargo run --release --example learn_ssl -- --data "$data" --out "$out" --part "${PART:-all}"
