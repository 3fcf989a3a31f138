// Several runs on one chart: their curves, and a result against a field in which they differ.

import { AXES, COLOURS, FROM_START, along, draw, hasPoints, offerTokens, redraw, trace } from "./charts.js";
import { FINAL, all, fetchAnew, one, say, steadily } from "./talk.js";

const BATCH = "batch.global_batch_size";
const RESULTS = ["time_to_target_seconds", "steps_to_target", "score", "best_score", "train_score", "training_seconds",
  "samples_seen", "tokens_seen", "samples_per_second", "tokens_per_second", "gradient_noise_scale"];
const partsOf = (name) => name.split(/ \(|\)/); // "score (rmse)": what, and of which metric or loss, where runs have several: these share no axis
const measured = (run, name) => (name.endsWith("loss") || (name.endsWith("score") && run.metric === "loss") ? run.loss : name.endsWith("score") ? run.metric : null);
const OF_EVALUATIONS = { score: (record) => record.score, test_loss: (record) => record.scores.loss };

function flat(value, path = "", into = {}) {
  if (value !== null && typeof value === "object" && !Array.isArray(value)) {
    for (const [name, inner] of Object.entries(value)) flat(inner, path ? `${path}.${name}` : name, into);
  } else into[path] = value;
  return into;
}

// A run's fields as they are compared: `full` is as many samples as it came to.
function fieldsOf(job) {
  const fields = flat(job.spec);
  if (fields[BATCH] === "full" && job.summary) fields[BATCH] = job.summary.global_batch_size;
  return fields;
}

const hasEnded = ({ summary }) => Boolean(summary) && summary.outcome !== "stopped" && summary.outcome !== "failed";
const yet = (runs) => (runs.every(({ job }) => FINAL.has(job.state)) ? "" : " yet"); // what runs that go on may still come to
const inWords = (value) => (value === null || value === undefined ? "none" : typeof value === "string" ? value : JSON.stringify(value));

// What a run has come to, also one that has not ended: then as far as its curves tell.
function resultOf(run, asked) {
  const [name, of] = partsOf(asked), { job, series: { start, steps, evaluations } } = run;
  if (of && of !== measured(run, name)) return null;
  if (job.summary) return job.summary[name] ?? null;
  const [scores, best] = [evaluations.map((record) => record.score), start?.headline.better === "lower" ? Math.min : Math.max];
  const soFar = { ...steps.at(-1), score: scores.at(-1), best_score: scores.length ? best(...scores) : null };
  return soFar[name] ?? null;
}

// Numbers stand where they are; where one of the values is none (a name, a list, nothing), or all are one, each value has a place of its own.
function axisOf(values) {
  const distinct = [...new Set(values)]; // a few are the axis's numbers themselves: of a logarithmic one plotly's own are hard to read
  if (distinct.length > 1 && values.every((value) => typeof value === "number")) {
    return { x: values, xaxis: { type: values.every((value) => value > 0) ? "log" : "linear", ...(distinct.length <= 8 && { tickmode: "array", tickvals: distinct, ticktext: distinct.map(inWords) }) } };
  }
  const order = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : typeof a === "number" ? -1 : typeof b === "number" ? 1 : 0);
  return { x: values.map(inWords), xaxis: { type: "category", categoryorder: "array", categoryarray: [...new Set(distinct.sort(order).map(inWords))] } };
}

function showCurves(runs) {
  const [metric, axis] = [one("#metric").value, one("#axis").value];
  const [what, of] = partsOf(metric);
  const valueOf = OF_EVALUATIONS[what] ?? ((record) => record[what]);
  const recordsOf = (run) => (of && of !== measured(run, what) ? [] : run.series[OF_EVALUATIONS[what] ? "evaluations" : "steps"]);
  const name = one("#metric").selectedOptions[0].text;
  const traces = runs.map((run, index) => trace(`${run.name} (${run.optimizer})`, along(recordsOf(run), axis), recordsOf(run).map(valueOf),
    { line: { color: COLOURS[index % COLOURS.length] } }));
  one("#curves-title").textContent = `${name} against ${AXES[axis]}`;
  draw("c-curves", traces, AXES[axis], { xaxis: FROM_START, blank: `None of these runs has a ${name}${yet(runs)}.` });
  const missing = runs.filter((_, index) => !hasPoints(traces[index]));
  const words = `Without a ${name}${yet(missing)}: ${missing.map((run) => run.name).join(", ")}`;
  Object.assign(one("#curves-missing"), { textContent: words, hidden: !missing.length || missing.length === traces.length });
}

function showResults(runs) {
  const [result, field] = [one("#result").value, one("#field").value];
  const drawn = runs.filter((run) => resultOf(run, result) !== null);
  const { x, xaxis } = axisOf(drawn.map(({ fields }) => fields[field]));
  one("#fields-title").textContent = `${result} against ${field}`;
  draw("c-fields", [{ x, y: drawn.map((run) => resultOf(run, result)), text: drawn.map((run) => `${run.name} (${run.optimizer})`), type: "scatter", mode: "markers",
    marker: { size: 11, symbol: drawn.map(({ job }) => (hasEnded(job) ? "circle" : "circle-open")) } }],
    field, { xaxis, blank: `None of these runs has ended with a ${result}.` });
  const named = (some) => some.map((run) => run.name).join(", ");
  const [unended, missing] = [drawn.filter(({ job }) => !hasEnded(job)), runs.filter((run) => !drawn.includes(run))];
  const words = [unended.length && `Not ended, drawn hollow as far as it came: ${named(unended)}.`, missing.length && `Without a ${result}: ${named(missing)}.`];
  const note = one("#fields-missing");
  note.textContent = words.filter(Boolean).join(" ");
  note.hidden = !drawn.length || !note.textContent;
}

async function compare() {
  const rows = all("#compared tbody tr").map((row) => row.dataset);
  if (!rows.length) return;
  fetchAnew(one("#footing"));
  const runs = await Promise.all(rows.map(async ({ id, name, loss }) => {
    const path = `/v1/runs/${encodeURIComponent(id)}`;
    const [job, series] = await Promise.all([steadily(path), steadily(`${path}/series`)]);
    return { name, job, series, loss, metric: series.start?.headline.name, optimizer: job.spec.optimizer.entry_point ?? job.spec.optimizer.name, fields: fieldsOf(job) };
  }));
  offerTokens(runs.map(({ series }) => series.start));
  const names = [...new Set(runs.flatMap(({ fields }) => Object.keys(fields)))];
  const differing = names.filter((name) => new Set(runs.map(({ fields }) => JSON.stringify(fields[name]))).size > 1);
  const options = (select, values, chosen) => select.replaceChildren(...values.map((value) => new Option(value, value, false, value === chosen)));
  options(one("#field"), differing.length ? differing : [BATCH], BATCH);
  const kinds = (name) => [...new Set(runs.map((run) => measured(run, name)).filter(Boolean))];
  const split = (name) => (kinds(name).length > 1 ? kinds(name).map((of) => ` (${of})`) : [""]);
  options(one("#result"), RESULTS.flatMap((name) => split(name).map((of) => name + of)), `score${split("score")[0]}`);
  for (const option of [...one("#metric").options]) option.replaceWith(...split(option.value).map((of) => new Option(option.text + of, option.value + of)));
  const curves = () => showCurves(runs);
  const results = () => showResults(runs);
  for (const id of ["#result", "#field"]) one(id).addEventListener("change", results);
  redraw(curves);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", results);
  curves();
  results();
}

export function comparePage() {
  compare().catch((error) => say(error.message));
}
