#!/usr/bin/env bash
# A ResNet-20 of half width, trained for 600 steps on the 10,000 images of CIFAR-10's first batch with the usual recipe: it
# must name more than half of the test images rightly (PyTorch reaches 53.8 % with this recipe). Some 7 minutes on 2 cores.
set -euo pipefail
cd "$(dirname "$0")/.."
source .ci/lib.sh

data=${LEANVISION_DATA:-}
[[ -d $data/cifar-10-batches-bin ]] || die "LEANVISION_DATA has to name a folder with cifar-10-batches-bin/"
out=${OUT:-$(mktemp -d)/run}
cargo run --release --bin classify -- train --arch resnet20 --width 0.5 --data "$data/cifar-10-batches-bin" \
    --images 10000 --steps 600 --batch 128 --lr 0.1 --momentum 0.9 --decay 1e-4 --schedule cosine --seed 0 --eval-every 100 \
    --out "$out" --json "$out.json"
awk '/"top1":/ { gsub(/[^0-9.]/, "", $2); good = $2 > 50 } END { exit !good }' "$out.json" || die "top-1 is not above 50 %: $out.json"
