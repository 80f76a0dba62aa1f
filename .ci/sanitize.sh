#!/usr/bin/env bash
# Runs the op tests on simulated devices: each subgroup size with a schedule and the variants that a kind of adapter gets.
# Then plants faults in every kernel. Stops at the first device that a test fails on.
set -euo pipefail
cd "$(dirname "$0")/.."
source .ci/lib.sh

cargo test --release --no-run --test ops
for device in 4,straight,cpu 8,random,cpu 16,interleaved,integrated 32,reversed,discrete 64,alone,discrete \
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
