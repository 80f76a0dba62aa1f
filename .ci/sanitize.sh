#!/usr/bin/env bash
# Runs the op tests on simulated devices: each subgroup size with a schedule and the variants that a kind of adapter gets,
# twice with grids folded early. Then plants faults in every kernel, and says which shader lines ran. Stops at the first
# failure.
set -euo pipefail
cd "$(dirname "$0")/.."
source .ci/lib.sh

cargo test --release --no-run --test ops
LEANVISION_COVERAGE=$(mktemp -d)
export LEANVISION_COVERAGE
trap 'rm -rf "$LEANVISION_COVERAGE"' EXIT
for device in 4,straight,cpu 8,random,cpu,300 16,interleaved,integrated 32,reversed,discrete,300 64,alone,discrete \
    128,interleaved,integrated; do
    start=$SECONDS
    say "-- $device"
    LEANVISION_SIM=$device cargo test --release --quiet --test ops -- --skip planted:: || die "-- $device: FAILED ($((SECONDS - start)) s)"
    say "-- $device: passed ($((SECONDS - start)) s)"
done

start=$SECONDS
say "-- planted faults"
LEANVISION_PLANTED=full cargo test --release --quiet --test ops planted:: || die "-- planted faults: FAILED ($((SECONDS - start)) s)"
say "-- planted faults: passed ($((SECONDS - start)) s)"

cargo run --release --quiet --bin gpubench -- coverage "$LEANVISION_COVERAGE" --least 95
