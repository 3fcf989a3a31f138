#!/bin/sh
# Every benchmark, one after the other, on an otherwise idle machine; tables go to docs/results.
set -eu
BIN=${BIN:-.venv/bin}
for name in startup memory optimizers overhead throughput mnist_to_99 workers_startup workers soak sweeps analysis serving first_paint; do
    "$BIN"/python benchmarks/$name.py --output docs/results/$name.md
done
