# What one types. `cargo` does the work.

.PHONY: tune untune

## Kernel limits: show and apply what a million connections need (as root), keeping what was there.
tune:
	cargo run --quiet --release --bin weir -- tune

## Restore what `make tune` found.
untune:
	cargo run --quiet --release --bin weir -- tune --undo
