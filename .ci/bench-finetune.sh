#!/usr/bin/env bash
# What adapters must reach on real images and texts (examples/learn_finetune.rs). Some 70 minutes on 2 cores; PART=fewshot,
# PART=cifar100, PART=texts or PART=scratch does one part. A run in OUT that came to its end is not done again.
set -euo pipefail
cd "$(dirname "$0")/.."
source .ci/lib.sh

data=${LEANVISION_DATA:-}
[[ -d $data/cifar-10-batches-bin ]] || die "LEANVISION_DATA has to name a folder with cifar-10-batches-bin/"
out=${OUT:-$(mktemp -d)/finetune}
cargo run --release --example learn_finetune -- --data "$data" --out "$out" --part "${PART:-all}"
