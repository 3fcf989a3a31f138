// The page of one sweep.

import { showCard } from "./card.js";
import { drawFigure } from "./charts.js";
import { actions, linksOf, logOf, pathOf, showJob } from "./job.js";
import { FINAL, listen, made, one, say, steadily } from "./talk.js";

function makePlace({ name, title, caption }) {
  const id = `figure-${name}`;
  if (document.getElementById(id)) return;
  const figure = made("figure");
  figure.append(made("figcaption", { textContent: title }), made("div", { id, className: "chart" }), made("p", { className: "note", textContent: caption }));
  one("#figures").append(figure);
}

function rowsInto(table, rows) {
  const line = (values, tag) => {
    const row = made("tr");
    row.append(...values.map((text) => made(tag, { textContent: text })));
    return row;
  };
  table.replaceChildren(line(Object.keys(rows[0]), "th"), ...rows.map((row) => line(Object.values(row), "td")));
}

const NAMES = { "learning_rate.base": "learning rate", "optimizer.name": "optimizer", "optimizer.entry_point": "optimizer" }; // whose last word alone would say nothing
const brief = (fields) => Object.entries(fields).filter(([name]) => name !== "seed" && !(name === "optimizer.name" && fields["optimizer.entry_point"]))
  .map(([name, value]) => `${NAMES[name] ?? name.split(".").pop()} ${typeof value === "number" ? Number(value.toPrecision(4)) : value}`).join(", ");
const rounded = (value, digits) => (value === null || value === undefined ? "" : value.toFixed(digits));

function trialRow(trial) {
  const row = made("tr");
  row.dataset.trial = trial.run_id;
  const cell = (name, text, number = true) => {
    const place = made("td", { textContent: text, className: number ? "number" : "" });
    place.dataset.of = name;
    return place;
  };
  const state = cell("state", "", false);
  state.append(made("span", { textContent: trial.outcome ?? trial.state, className: `state ${trial.outcome ?? ""} ${trial.state}`, title: trial.why }));
  row.append(cell("number", trial.number + 1), cell("fields", brief(trial.fields), false), state, cell("step", trial.step ?? ""),
    cell("score", rounded(trial.score, 4)), cell("training_seconds", rounded(trial.training_seconds, 2)),
    cell("to_target", rounded(trial.time_to_target_seconds, 2)));
  return row;
}

// What runs now, every second, without asking: the job's own event carries it.
function tick(running) {
  for (const [name, told] of Object.entries(running ?? {})) {
    const row = one(`tr[data-trial="${CSS.escape(name)}"]`);
    if (!row) continue;
    const put = (of, text) => { one(`[data-of="${of}"]`, row).textContent = text; };
    put("step", told.step ?? "");
    put("score", rounded(told.score, 4));
    put("training_seconds", rounded(told.training_seconds, 2));
  }
}

function withoutAnswer(told, items) {
  const failed = items.filter(({ state }) => state === "failed");
  const why = failed.length ? [`${failed.length} of ${items.length} runs failed, first: ${failed[0].why || "no reason was given"}`] : [];
  return [`This sweep is over (${told.state}), without an answer: none of its runs has ended.`, ...why,
    ...(told.reason ? [told.reason] : []), "Mend what it says and submit it again, or resume it: runs that have ended are kept."];
}

export function sweepPage() {
  const job = one("#job");
  const base = pathOf(job);

  function tell(words) {
    one("#words").replaceChildren(...words.map((text) => made("p", { textContent: text })));
  }

  async function findings() {
    const answer = await steadily(`${base}/findings?figures=true`).catch((error) => {
      if (!error.problem) throw error;
      return { words: [error.problem.detail], rows: [], figures: [] }; // no run has a result, and why
    });
    showCard(one("#card"), answer.card);
    tell(answer.words);
    one("#by-batch").hidden = !answer.rows.length;
    if (answer.rows.length) rowsInto(one("#rows"), answer.rows);
    one("#drawn").hidden = !answer.figures.length;
    answer.figures.forEach(makePlace); // all of them first: what is drawn alone keeps the whole width
    answer.figures.forEach(({ name, figure }) => drawFigure(`figure-${name}`, figure));
  }

  async function trials() {
    const items = [];
    for (let after = 0; ;) {
      const page = await steadily(`${base}/records?limit=1000&after=${after}`);
      items.push(...page.items);
      if (page.is_complete) break;
      after = page.next_after;
    }
    one("#trials tbody").replaceChildren(...items.map(trialRow));
    one("#trials").hidden = items.length === 0;
    return items;
  }

  // The service is asked for an answer only where a run may have one: where none has ended, the page knows what to say.
  async function read(told) {
    const items = await trials();
    const isOver = FINAL.has(told.state);
    one("#runs").hidden = isOver && !items.length;
    if (items.some(({ state }) => state === "ended")) await findings();
    else if (isOver) tell(withoutAnswer(told, items));
  }

  let shown = null;
  let reading = Promise.resolve();
  actions(job);
  const events = listen(`${base}/events`, {
    job: (told) => {
      showJob(told, job);
      linksOf(job, told);
      one("#report").hidden = told.state !== "succeeded";
      const state = `${told.state} ${told.progress.runs} ${told.progress.runs_over}`;
      if (state !== shown) {
        reading = reading.then(() => read(told)).catch((error) => say(error.message));
      } else tick(told.progress.running);
      shown = state;
      logOf(job, told.attempt);
    },
    deleted: () => say("This sweep was deleted."),
    over: () => events.close(),
  });
}
