// What moves on the pages: live tables and curves, the forms, cancel and resume. Everything comes from /v1.

const AXES = { training_seconds: "training seconds", samples_seen: "samples", step: "steps", cost: "device seconds" };
const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#777777"];
const SHOWN_STEPS = 1000;
const FINAL = new Set(["succeeded", "failed", "cancelled"]);

const one = (selector, within = document) => within.querySelector(selector);
const all = (selector, within = document) => [...within.querySelectorAll(selector)];

async function ask(path, options = {}) {
  const answer = await fetch(path, { headers: { "Content-Type": "application/json", ...options.headers }, ...options });
  if (answer.status === 401) location.assign("/login");
  const body = answer.status === 204 ? null : await answer.json().catch(() => ({ detail: "The service does not answer." }));
  if (!answer.ok) throw Object.assign(new Error(body.detail), { problem: body });
  return body;
}

function say(text) {
  const notice = one("#notice");
  notice.textContent = text;
  notice.hidden = !text;
}

// What a stream tells. One that was refused is asked for again by a new page: signed in anew, or when the service is back.
function listen(path) {
  const events = new EventSource(path);
  events.addEventListener("error", () => {
    if (events.readyState !== EventSource.CLOSED) return; // it tries again by itself
    say("No longer live: the service does not answer, or the sign-in is over.");
    const asking = setInterval(async () => {
      const answer = await fetch("/v1/runs?limit=1").catch(() => null);
      if (!answer || (answer.status !== 401 && !answer.ok)) return;
      clearInterval(asking);
      if (answer.status === 401) location.assign("/login");
      else location.reload();
    }, 3000);
  });
  return events;
}

// ---- cells ----------------------------------------------------------------------------------------------------------

const WRITERS = {
  test_accuracy: (value) => value.toFixed(4),
  training_seconds: (value) => `${value.toFixed(1)} s`,
};

function fill(place, job) {
  const values = { ...job.progress, state: job.state, outcome: job.outcome, attempt: job.attempt };
  for (const cell of all("[data-cell]", place)) {
    const name = cell.dataset.cell;
    const value = values[name];
    if (value === undefined || value === null) continue;
    cell.textContent = (WRITERS[name] ?? String)(value);
    if (name === "state") cell.className = `state ${value}`;
  }
}

// ---- charts ---------------------------------------------------------------------------------------------------------

function colours() {
  const style = getComputedStyle(document.documentElement);
  return { ink: style.getPropertyValue("--ink").trim(), line: style.getPropertyValue("--line").trim() };
}

function draw(id, traces, xTitle, extra = {}) {
  const place = document.getElementById(id);
  if (!place || !window.Plotly) return;
  const { ink, line } = colours();
  const axis = { gridcolor: line, zerolinecolor: line, automargin: true };
  const layout = {
    margin: { l: 50, r: 15, t: 10, b: 45 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: ink },
    xaxis: { ...axis, title: { text: xTitle }, ...extra.xaxis }, yaxis: { ...axis, ...extra.yaxis },
    showlegend: traces.length > 1, legend: { orientation: "h", y: 1.02, yanchor: "bottom" }, uirevision: "kept", shapes: extra.shapes ?? [], hovermode: "closest",
  };
  window.Plotly.react(place, traces, layout, { responsive: true, displaylogo: false, displayModeBar: false });
}

const trace = (name, x, y, more = {}) => ({ name, x, y, type: "scatter", mode: x.length > 60 ? "lines" : "lines+markers", ...more });

function place(record, axis, worldSize) {
  return axis === "cost" ? record.training_seconds * worldSize : record[axis];
}

function running(records) {
  // Ratio of sums, not mean of ratios: single estimates of the signal can be negative.
  let traces = 0, norms = 0;
  return records.filter((r) => r.covariance_trace !== undefined && r.covariance_trace !== null).map((r) => {
    traces += r.covariance_trace;
    norms += r.gradient_norm_squared;
    return [r, norms > 0 ? traces / norms : null];
  });
}

function speeds(steps) {
  // Over some steps each: single ones are told apart by the clock's grain more than by their speed.
  const every = Math.ceil(steps.length / 100);
  const some = steps.filter((_, index) => index % every === 0);
  return some.slice(1).map((now, index) => {
    const before = some[index];
    const seconds = now.training_seconds - before.training_seconds;
    return [now, seconds > 0 ? (now.samples_seen - before.samples_seen) / seconds : null];
  });
}

// ---- the list -------------------------------------------------------------------------------------------------------

function listPage() {
  const table = one("#jobs");
  if (table.dataset.live !== "yes") return;
  const kind = table.dataset.kind;
  const events = listen(`/v1/events?kind=${kind}`);
  events.addEventListener("job", (event) => {
    const job = JSON.parse(event.data);
    const row = one(`tr[data-id="${CSS.escape(job.id)}"]`, table);
    if (row) fill(row, job);
    else addRow(table, job);
  });
}

function addRow(table, job) {
  const body = one("tbody", table);
  const cell = (name, number = true) => {
    const made = document.createElement("td");
    if (number) made.className = "number";
    if (name) made.dataset.cell = name;
    return made;
  };
  const row = document.createElement("tr");
  row.dataset.id = job.id;
  const link = Object.assign(document.createElement("a"), { href: `/${job.kind}s/${encodeURIComponent(job.id)}`, textContent: job.id });
  const name = document.createElement("td");
  name.append(link);
  const state = document.createElement("td");
  const mark = document.createElement("span");
  mark.dataset.cell = "state";
  state.append(mark);
  const owner = Object.assign(document.createElement("td"), { textContent: job.owner });
  const asked = Object.assign(document.createElement("td"), { textContent: job.created_at.slice(0, 16).replace("T", " ") });
  if (job.kind === "run") {
    const box = Object.assign(document.createElement("input"), { type: "checkbox", name: "run", value: job.id, ariaLabel: `Compare ${job.id}` });
    const choose = document.createElement("td");
    choose.append(box);
    const batch = Object.assign(cell(""), { textContent: job.global_batch_size ?? "full" });
    row.append(choose, name, state, batch, cell("test_accuracy"), cell("training_seconds"), cell("step"), owner, asked);
  } else row.append(name, state, cell("runs_over"), owner, asked);
  body.prepend(row);
  table.hidden = false;
  one("#empty").hidden = true;
  fill(row, job);
}

// ---- one run or sweep -----------------------------------------------------------------------------------------------

function actions(job) {
  for (const button of all("[data-act]")) {
    button.addEventListener("click", async () => {
      const act = button.dataset.act;
      if (act === "delete" && !confirm(`Delete ${job.dataset.id} and its files?`)) return;
      button.disabled = true;
      try {
        const path = `/v1/${job.dataset.kind}s/${encodeURIComponent(job.dataset.id)}`;
        await ask(act === "delete" ? path : `${path}/${act}`, { method: act === "delete" ? "DELETE" : "POST" });
        if (act === "delete") location.assign(`/${job.dataset.kind}s`);
        else if (act === "resume") location.reload();
        else say("It finishes its step, saves and ends.");
      } catch (error) {
        say(error.message);
      }
      button.disabled = false;
    });
  }
}

function showJob(job, place) {
  fill(place, job);
  const reason = one("#reason");
  reason.textContent = job.reason ?? "";
  reason.hidden = !job.reason;
  reason.className = job.state === "failed" ? "bad" : "note";
  const isFinal = FINAL.has(job.state);
  const show = (act, visible) => all(`[data-act="${act}"]`).forEach((button) => { button.hidden = !visible; });
  show("cancel", !isFinal);
  show("resume", job.state === "failed" || job.state === "cancelled");
  show("delete", isFinal);
}

// Links that come only once a job has begun: the server makes them, of what its operator said.
const asked = { attempt: 0, atS: 0 };
async function linksOf(job, told) {
  const waiting = all("[data-link]").filter((item) => item.hidden || (item.dataset.link === "ray_dashboard_url" && asked.attempt !== told.attempt));
  const now = performance.now() / 1000;
  if (!told.attempt || !waiting.length || (now - asked.atS < 5 && !FINAL.has(told.state))) return;
  Object.assign(asked, { attempt: told.attempt, atS: now });
  const found = await ask(`/v1/${job.dataset.kind}s/${encodeURIComponent(job.dataset.id)}`).catch(() => ({}));
  for (const item of waiting) {
    const address = found[item.dataset.link];
    if (!/^https?:\/\//.test(address ?? "")) continue;
    one("a", item).href = address;
    item.hidden = false;
  }
}

async function planOf(job) {
  const place = one("#run-plan");
  if (!place.hidden) return;
  const answer = await fetch(`/v1/runs/${encodeURIComponent(job.dataset.id)}/artifacts/plan.json`);
  if (!answer.ok) return;
  const shown = Object.entries(await answer.json()).filter(([name, value]) => name !== "learning_rate_curve" && value !== null);
  one("dl", place).replaceChildren(...shown.flatMap(([name, value]) => [
    Object.assign(document.createElement("dt"), { textContent: name.replaceAll("_", " ") }),
    Object.assign(document.createElement("dd"), { textContent: Array.isArray(value) ? briefly(value) : String(value) })]));
  place.hidden = false;
}

const briefly = (values) => (values.length > 8 ? `${values.slice(0, 8).join(", ")} and ${values.length - 8} more` : values.join(", "));

const log = { attempt: 0, offset: 0, busy: false };

async function logOf(job, attempt) {
  const place = one("#log");
  if (log.busy || !attempt) return;
  log.busy = true;
  if (attempt !== log.attempt) {
    Object.assign(log, { attempt, offset: 0 });
    place.textContent = "";
  }
  const follows = place.scrollTop + place.clientHeight >= place.scrollHeight - 5;
  try {
    for (;;) {
      const path = `/v1/${job.dataset.kind}s/${encodeURIComponent(job.dataset.id)}/logs?attempt=${attempt}&offset=${log.offset}`;
      const answer = await fetch(path);
      const next = Number(answer.headers.get("X-Next-Offset"));
      if (!answer.ok || next <= log.offset) break;
      place.append(await answer.text());
      log.offset = next;
    }
  } finally {
    log.busy = false;
  }
  if (follows) place.scrollTop = place.scrollHeight;
}

function runPage() {
  const job = one("#job");
  const data = { steps: [], evaluations: [], worldSize: 1 };
  let waiting = null;
  actions(job);

  function render() {
    waiting = null;
    const axis = one("#axis").value;
    const at = (records) => records.map((record) => place(record, axis, data.worldSize));
    const { steps, evaluations } = data;
    one("#waiting").hidden = steps.length + evaluations.length > 0;
    one(".charts").hidden = steps.length + evaluations.length === 0;
    if (one(".charts").hidden) return; // what is drawn while hidden keeps a size of its own
    const title = AXES[axis];
    draw("c-accuracy", [trace("test accuracy", at(evaluations), evaluations.map((r) => r.test_accuracy), { line: { color: COLOURS[0] } })], title);
    draw("c-loss", [trace("train", at(steps), steps.map((r) => r.loss), { line: { color: COLOURS[0] } }),
      trace("test", at(evaluations), evaluations.map((r) => r.test_loss), { line: { color: COLOURS[1] } })], title);
    draw("c-rate", [trace("learning rate", at(steps), steps.map((r) => r.learning_rate))], title);
    const speed = speeds(steps);
    draw("c-speed", [trace("samples per second", at(speed.map(([r]) => r)), speed.map(([, v]) => v))], title, { yaxis: { rangemode: "tozero" } });
    const noise = running(steps);
    draw("c-noise", [trace("noise scale", at(noise.map(([r]) => r)), noise.map(([, v]) => v))], title, { yaxis: { rangemode: "tozero" } });
  }
  const soon = () => { waiting ??= setTimeout(render, 250); };

  function note(text) {
    one("#notices").append(Object.assign(document.createElement("li"), { textContent: text }));
  }

  const events = listen(`/v1/runs/${encodeURIComponent(job.dataset.id)}/events`);
  events.addEventListener("start", (event) => {
    const record = JSON.parse(event.data);
    data.steps = data.steps.filter((r) => r.step <= record.step);
    data.evaluations = data.evaluations.filter((r) => r.step <= record.step);
    data.worldSize = record.world_size;
    planOf(job);
    note(record.step ? `Went on from step ${record.step}, ${record.world_size} worker(s), on ${record.device}` : `Began on ${record.device}`);
    soon();
  });
  events.addEventListener("step", (event) => {
    data.steps.push(JSON.parse(event.data));
    if (data.steps.length > 2 * SHOWN_STEPS) data.steps = data.steps.filter((_, index) => index % 2 === 0);
    soon();
  });
  events.addEventListener("evaluation", (event) => { data.evaluations.push(JSON.parse(event.data)); soon(); });
  events.addEventListener("notice", (event) => note(JSON.parse(event.data).text));
  events.addEventListener("end", (event) => note(`Ended: ${JSON.parse(event.data).summary.outcome}`));
  let attempt = 0;
  events.addEventListener("job", (event) => {
    const told = JSON.parse(event.data);
    attempt = told.attempt;
    showJob(told, job);
    linksOf(job, told);
    logOf(job, attempt);
  });
  events.addEventListener("over", () => { events.close(); logOf(job, attempt); });
  one("#axis").addEventListener("change", render);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", render);
  addEventListener("load", render);
  render();
}

function sweepPage() {
  const job = one("#job");
  const base = `/v1/sweeps/${encodeURIComponent(job.dataset.id)}`;
  actions(job);

  async function findings() {
    const answer = await fetch(`${base}/findings?figures=true`);
    if (!answer.ok) return;
    const found = await answer.json();
    one("#words").replaceChildren(...found.words.map((text) => Object.assign(document.createElement("p"), { textContent: text })));
    rowsInto(one("#rows"), found.rows);
    found.figures.forEach(makePlace); // all of them first: what is drawn alone keeps the whole width
    found.figures.forEach(show);
  }
  function makePlace({ name, title, caption }) {
    const id = `figure-${name}`;
    if (document.getElementById(id)) return;
    const made = document.createElement("figure");
    made.append(Object.assign(document.createElement("figcaption"), { textContent: title }),
      Object.assign(document.createElement("div"), { id, className: "chart" }),
      Object.assign(document.createElement("p"), { className: "note", textContent: caption }));
    one("#figures").append(made);
  }
  // One figure for report, MLflow and page: the server describes it, the page gives it its colours.
  function show({ name, figure }) {
    const { ink, line } = colours();
    const axis = (given) => ({ ...given, gridcolor: line, zerolinecolor: line, linecolor: line });
    const { xaxis, yaxis, ...layout } = figure.layout;
    window.Plotly?.react(`figure-${name}`, figure.data, { ...layout, title: undefined, font: { color: ink, size: 12 }, margin: { l: 60, r: 15, t: 15, b: 60 },
      xaxis: axis(xaxis), yaxis: axis(yaxis), legend: { orientation: "h", y: 1.02, yanchor: "bottom" } },
    { responsive: true, displaylogo: false, displayModeBar: false });
  }
  function rowsInto(table, rows) {
    if (!rows.length) return;
    const line = (values, tag) => {
      const row = document.createElement("tr");
      row.append(...values.map((text) => Object.assign(document.createElement(tag), { textContent: text })));
      return row;
    };
    table.replaceChildren(line(Object.keys(rows[0]), "th"), ...rows.map((row) => line(Object.values(row), "td")));
  }
  const brief = (fields) => Object.entries(fields).filter(([name]) => name !== "seed")
    .map(([name, value]) => `${name.split(".").pop()} ${typeof value === "number" ? Number(value.toPrecision(4)) : value}`).join(", ");
  const rounded = (value, digits) => (value === null || value === undefined ? "" : value.toFixed(digits));

  function trialRow(trial) {
    const row = document.createElement("tr");
    row.dataset.trial = trial.run_id;
    const cell = (name, text, number = true) => {
      const made = Object.assign(document.createElement("td"), { textContent: text, className: number ? "number" : "" });
      made.dataset.of = name;
      return made;
    };
    const state = cell("state", "", false);
    state.append(Object.assign(document.createElement("span"), { textContent: trial.outcome ?? trial.state, className: `state ${trial.state}`, title: trial.why }));
    row.append(cell("number", trial.number + 1), cell("fields", brief(trial.fields), false), state, cell("step", trial.step ?? ""),
      cell("test_accuracy", rounded(trial.test_accuracy, 4)), cell("training_seconds", rounded(trial.training_seconds, 2)),
      cell("to_target", rounded(trial.time_to_accuracy_seconds, 2)));
    return row;
  }

  async function trials() {
    const rows = [];
    for (let after = 0; ;) {
      const page = await ask(`${base}/records?limit=1000&after=${after}`);
      rows.push(...page.items.map(trialRow));
      if (page.is_complete) break;
      after = page.next_after;
    }
    one("#trials tbody").replaceChildren(...rows);
    one("#trials").hidden = rows.length === 0;
  }

  // What runs now, every second, without asking: the job's own event carries it.
  function tick(running) {
    for (const [name, told] of Object.entries(running ?? {})) {
      const row = one(`tr[data-trial="${CSS.escape(name)}"]`);
      if (!row) continue;
      const put = (of, text) => { one(`[data-of="${of}"]`, row).textContent = text; };
      put("step", told.step ?? "");
      put("test_accuracy", rounded(told.test_accuracy, 4));
      put("training_seconds", rounded(told.training_seconds, 2));
    }
  }

  let shown = null;
  let listing = Promise.resolve();
  const events = listen(`${base}/events`);
  events.addEventListener("job", (event) => {
    const told = JSON.parse(event.data);
    showJob(told, job);
    linksOf(job, told);
    one("#report").hidden = told.state !== "succeeded";
    const state = `${told.state} ${told.progress.runs} ${told.progress.runs_over}`;
    if (state !== shown) {
      if (told.progress.runs_over || FINAL.has(told.state)) findings();
      listing = listing.then(trials).catch((error) => say(error.message));
    } else tick(told.progress.running);
    shown = state;
    logOf(job, told.attempt);
  });
  events.addEventListener("over", () => events.close());
}

// ---- comparing ------------------------------------------------------------------------------------------------------

async function comparePage() {
  const ids = all("#compared tbody tr").map((row) => row.dataset.id);
  if (!ids.length) return;
  const jobs = await Promise.all(ids.map((id) => ask(`/v1/runs/${encodeURIComponent(id)}`)));
  const series = await Promise.all(ids.map((id) => ask(`/v1/runs/${encodeURIComponent(id)}/series`)));
  const flat = (value, path = "", into = {}) => {
    if (value !== null && typeof value === "object" && !Array.isArray(value)) for (const [k, v] of Object.entries(value)) flat(v, path ? `${path}.${k}` : k, into);
    else into[path] = value;
    return into;
  };
  const fields = jobs.map((job) => flat(job.spec));
  const names = [...new Set(fields.flatMap(Object.keys))];
  const differing = names.filter((name) => new Set(fields.map((f) => JSON.stringify(f[name]))).size > 1);
  const options = (select, values, chosen) => select.replaceChildren(...values.map((value) => new Option(value, value, false, value === chosen)));
  options(one("#field"), differing.length ? differing : ["batch.global_batch_size"], "batch.global_batch_size");
  const results = ["time_to_accuracy_seconds", "steps_to_accuracy", "test_accuracy", "best_test_accuracy", "train_accuracy", "training_seconds",
    "samples_seen", "samples_per_second", "gradient_noise_scale"];
  options(one("#result"), results, "test_accuracy");

  function curves() {
    const [metric, axis] = [one("#metric").value, one("#axis").value];
    const part = metric.startsWith("test_") ? "evaluations" : "steps";
    const traces = series.map((found, index) => {
      const world = jobs[index].progress.world_size ?? 1;
      return trace(ids[index], found[part].map((r) => place(r, axis, world)), found[part].map((r) => r[metric]), { line: { color: COLOURS[index % 7] } });
    });
    one("#curves-title").textContent = `${one("#metric").selectedOptions[0].text} against ${AXES[axis]}`;
    draw("c-curves", traces, AXES[axis]);
  }
  function results_() {
    const [result, field] = [one("#result").value, one("#field").value];
    const at = jobs.map((job, index) => [fields[index][field], job.summary?.[result] ?? null, ids[index]]).filter(([, value]) => value !== null);
    one("#fields-title").textContent = `${result} against ${field}`;
    const isLog = at.every(([x]) => typeof x === "number" && x > 0) && at.length > 1;
    draw("c-fields", [{ x: at.map(([x]) => x), y: at.map(([, y]) => y), text: at.map(([, , id]) => id), type: "scatter", mode: "markers", marker: { size: 11 } }],
      field, { xaxis: { type: isLog ? "log" : undefined } });
  }
  for (const id of ["#metric", "#axis"]) one(id).addEventListener("change", curves);
  for (const id of ["#result", "#field"]) one(id).addEventListener("change", results_);
  curves();
  results_();
}

// ---- forms ----------------------------------------------------------------------------------------------------------

function value(text) {
  const trimmed = text.trim();
  if (trimmed === "") return null;
  try {
    return JSON.parse(trimmed);
  } catch {
    return trimmed;
  }
}

const numbers = (text) => text.split(",").map((part) => value(part)).filter((part) => part !== null);

function showProblem(problem) {
  all(".field").forEach((field) => { field.classList.remove("wrong"); one(".error", field).textContent = ""; });
  const general = one("#e-general");
  general.textContent = "";
  if (!problem) return;
  const asked = problem.field.replace(/^set\./, "");
  const field = one(`.field[data-field="${CSS.escape(problem.field)}"]`) ?? one(`.field[data-field="${CSS.escape(asked)}"]`);
  if (!field) {
    general.textContent = problem.detail;
    return;
  }
  field.classList.add("wrong");
  one(".error", field).textContent = `${problem.problem} ${problem.hint}`;
  one("input, select, textarea", field).focus();
}

function key() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function wantedRun(form) {
  const set = {};
  for (const input of all("input[data-was]", form)) if (input.value !== input.dataset.was) set[input.name] = value(input.value);
  for (const line of form.elements.set.value.split("\n")) {
    const [name, ...rest] = line.split("=");
    if (name.trim()) set[name.trim()] = value(rest.join("="));
  }
  return { recipe: form.dataset.recipe, set, priority: Number(form.elements.priority.value), workers: form.elements.workers.value.trim() || null,
    gpus: Number(form.elements.gpus.value), cpus: value(form.elements.cpus.value) };
}

function wantedSweep(form) {
  const named = form.elements;
  const each = { "batch.global_batch_size": numbers(named.batches.value) };
  const momenta = numbers(named.momenta.value);
  if (momenta.length) each["optimizer.momentum"] = momenta;
  const set = {};
  if (named.target.value.trim()) set["stop.target_accuracy"] = value(named.target.value);
  if (named.epochs.value.trim()) Object.assign(set, { "stop.epochs": value(named.epochs.value), "stop.steps": null });
  const range = { low: value(named.low.value), high: value(named.high.value), times_batch: 0.5, is_effective: momenta.length > 0 };
  return { cpus: value(named.cpus.value), sweep: { recipe: named.recipe.value, set, each, repeats: Number(named.repeats.value),
    search: { trials: Number(named.trials.value), space: { "learning_rate.base": range } } } };
}

function formPage() {
  const form = one("#submit");
  const kind = form.dataset.kind;
  const wanted = () => (kind === "run" ? wantedRun(form) : wantedSweep(form));
  let submitKey = key();
  form.addEventListener("input", () => { submitKey = key(); });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = one("button[type=submit]", form);
    button.disabled = true;
    showProblem(null);
    try {
      const job = await ask(`/v1/${kind}s`, { method: "POST", body: JSON.stringify(wanted()), headers: { "Content-Type": "application/json", "Idempotency-Key": submitKey } });
      location.assign(`/${kind}s/${encodeURIComponent(job.id)}`);
    } catch (error) {
      if (error.problem) showProblem({ field: "", hint: "", ...error.problem });
      else say("The service does not answer; your changes are still here.");
    }
    button.disabled = false;
  });
  one("#plan")?.addEventListener("click", async (event) => {
    const button = event.currentTarget;
    const section = one("#planned");
    button.disabled = true;
    button.textContent = "Planning";
    showProblem(null);
    try {
      const plan = await ask(`/v1/${kind}s/plan`, { method: "POST", body: JSON.stringify(wanted()) });
      one("dl", section).replaceChildren(...plan.lines.flatMap(({ what, how }) => [
        Object.assign(document.createElement("dt"), { textContent: what }), Object.assign(document.createElement("dd"), { textContent: how })]));
      section.hidden = false;
    } catch (error) {
      section.hidden = true;
      if (error.problem) showProblem({ field: "", hint: "", ...error.problem });
      else say("The service does not answer; your changes are still here.");
    }
    button.disabled = false;
    button.textContent = "Show the plan";
  });
  const recipe = one("#recipe");
  if (recipe) {
    recipe.addEventListener("change", () => recipe.form.submit());
    one("button", recipe.form).hidden = true;
  }
}

const PAGES = { jobs: listPage, run: runPage, sweep: sweepPage, compare: comparePage, "new-run": formPage, "new-sweep": formPage };
PAGES[document.body.dataset.page]?.();
