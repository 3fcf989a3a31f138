#!/bin/sh
# The demo: the same real data with a small and a very large batch, one table, one figure; then a study of a minute and a half.
set -eu
BIN=${BIN:-.venv/bin}
OUT=${OUT:-runs}
RUNS=""
for recipe in digits-small-batch digits-large-batch; do
    echo "Training $recipe ..."
    result=$("$BIN"/largebatch train "$recipe" --output-dir "$OUT" --json 2>"${TMPDIR:-/tmp}/largebatch-demo.$$") ||
        { cat "${TMPDIR:-/tmp}/largebatch-demo.$$"; rm -f "${TMPDIR:-/tmp}/largebatch-demo.$$"; exit 1; }
    rm -f "${TMPDIR:-/tmp}/largebatch-demo.$$"
    RUNS="$RUNS $(printf '%s' "$result" | "$BIN"/python -c 'import json, sys; print(json.load(sys.stdin)["run_dir"])')"
done
echo
# shellcheck disable=SC2086  # run folders are names of ours, without spaces
"$BIN"/largebatch compare $RUNS --figure "$OUT/demo.html"
echo "Open it in a browser; it needs no network."
echo "MLflow: $BIN/mlflow ui --backend-store-uri sqlite:///$(cd "$OUT" && pwd)/mlflow.db   then open http://127.0.0.1:5000"
echo
echo "Now the whole question, in about a minute and a half: which batch size reaches 95 % soonest?"
"$BIN"/largebatch study digits-small-batch --budget 90s --set stop.target_accuracy=0.95 --set stop.at_target=true \
    --set evaluation.every_epochs=0.5 --output-dir "$OUT"
