#!/bin/sh
# The demo, in about a minute: the same real data with a small and a very large batch, one table, one figure; then the
# whole question, which batch size is soonest and under which optimizer, answered by a study with its report. Five layers without norms
# are what SGD cannot train with half the training set in each step, whatever the rate, and LAMB can.
set -eu
BIN=${BIN:-.venv/bin}
OUT=${OUT:-runs}
BEGAN=$(date +%s)
say() { printf '\n== %s\n' "$*"; }
seconds() { echo $(($(date +%s) - BEGAN)); }

say "1 of 2: the digits under SGD with a batch of 32, and under LAMB with a batch of half the training set (under a minute)"
RUNS=""
for recipe in digits-small-batch digits-large-batch; do
    echo "Training $recipe ..."
    result=$("$BIN"/largebatch train "$recipe" --output-dir "$OUT" --json)
    RUNS="$RUNS $(printf '%s' "$result" | "$BIN"/python -c 'import json, sys; print(json.load(sys.stdin)["run_dir"])')"
done
echo
# shellcheck disable=SC2086  # run folders are names of ours, without spaces
"$BIN"/largebatch compare $RUNS --figure "$OUT/demo.html"
echo "Open the figure in a browser; it needs no network."
echo "MLflow: $BIN/mlflow ui --backend-store-uri sqlite:///$(cd "$OUT" && pwd)/mlflow.db   then open http://127.0.0.1:5000"
echo "That took $(seconds) seconds."

say "2 of 2: which batch size reaches 95 % soonest, under SGD or LAMB, in a net of five layers? Profile, prediction, sweep, sharpness and report (about a minute)"
study() {
    "$BIN"/largebatch study digits-small-batch --budget "$1" --optimizers sgd,lamb --set model.arguments.depth=5 --set stop.epochs=30 \
        --set stop.target_accuracy=0.95 --set stop.at_target=true --output-dir "$OUT"
}
refused=0
study 60s || refused=$?
if [ "$refused" = 2 ]; then
    say "A minute is too little on a machine as slow or as busy as this one: the same with up to five"
    study 5m
elif [ "$refused" != 0 ]; then
    exit "$refused"
fi
echo "Open the report in a browser; it needs no network. All in all $(seconds) seconds."
