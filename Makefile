# make demo               set up, build, run the tour of all methods
# make test               set up, build, run every test on the main adapter
# make test-portability   the op tests on the other software adapters, the kernels in a browser
# make sanitize           every op in the kernel simulator, under six subgroup sizes and five schedules, no GPU needed
# make bench              speed of every kernel family
# make bench-peers        the same work beside burn on the same adapter and candle on the CPU, in turns (builds both: half an hour)
# make bench-classify     top-1 of the published networks on all their test images (needs LEANVISION_DATA)
# make bench-train        a ResNet-20 of half width trained on real images, to over 50 % top-1 (needs LEANVISION_DATA)
# make bench-ssl          self-supervised learning and distillation on real images, held to what they must reach (needs LEANVISION_DATA; 40 minutes)
# make bench-finetune     adapters trained on real images and texts, held to what they must reach (needs LEANVISION_DATA; 70 minutes)
# make lint               format, lints, documentation

# Real images and trained networks, where there are any; tests that need them say when they are absent.
ifneq ($(wildcard ../shared/data/.),)
export LEANVISION_DATA ?= $(abspath ../shared/data)
endif

# rustup's folder, for shells that have not read its env file since it was installed.
export PATH := $(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin

# Mesa's device-select layer asks Wayland which GPU shows the screen and complains at every start where there is none.
ifndef XDG_RUNTIME_DIR
export NODEVICE_SELECT ?= 1
endif

.PHONY: demo test test-portability sanitize bench bench-peers bench-classify bench-train bench-ssl bench-finetune lint setup

setup:
	@bash .ci/setup.sh

demo: setup
	cargo run --release

test: setup
	cargo test --release

test-portability:
	@bash .ci/setup.sh portability
	@bash .ci/portability.sh

sanitize: setup
	@bash .ci/sanitize.sh

bench: setup
	cargo bench

bench-peers: setup
	cargo run --release --manifest-path benches/peers/Cargo.toml -- ops --results benches/results
	cargo run --release --manifest-path benches/peers/Cargo.toml -- train --results benches/results

bench-classify: setup
	@bash .ci/bench-classify.sh

bench-train: setup
	@bash .ci/bench-train.sh

bench-ssl: setup
	@bash .ci/bench-ssl.sh

bench-finetune: setup
	@bash .ci/bench-finetune.sh

lint:
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps
