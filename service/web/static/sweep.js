// The page of one sweep or study. What its runs say comes from the server as HTML and as figures; this asks again when more of them are over.

import { drawFigure } from "./charts.js";
import { actions, linksOf, logOf, pathOf, places, showJob } from "./job.js";
import { FINAL, all, fetchAnew, listen, made, one, say, steadily } from "./talk.js";

function makePlace({ name, title, caption }) {
  const id = `figure-${name}`;
  if (document.getElementById(id)) return;
  const figure = made("figure");
  figure.append(made("figcaption", { textContent: title }), made("div", { id, className: "chart" }), made("p", { className: "note", textContent: caption }));
  one("#figures").append(figure);
}

function drawThem(figures) {
  one("#drawn").hidden = !figures.length && !one("#figures").children.length;
  figures.forEach(makePlace); // all of them first: what is drawn alone keeps the whole width
  figures.forEach(({ name, figure }) => drawFigure(`figure-${name}`, figure));
}

// How far it is: a study by the time that it may take, a sweep by its runs.
function showProgress({ state, started_at: began, progress: { stage, stages, stage_name: name, runs_over: over, total_runs: total } }) {
  const budget = Number(one("#job").dataset.budget);
  const isOver = FINAL.has(state), isDone = state === "succeeded"; // perhaps without runs that there was no time for
  one("#progress").hidden = !total && (isOver || !stage);
  if (one("#progress").hidden) return;
  const spent = began ? (Date.now() - Date.parse(began)) / 1000 : 0;
  const bar = budget && !isOver ? { max: budget, value: Math.min(spent, budget) } : { max: total, value: isDone ? total : over };
  Object.assign(one("#progress progress"), bar);
  const words = [stage && !isOver && `Stage ${stage} of ${stages}: ${name}`, total && (isDone ? `${over} runs` : `${over} of ${total} runs over`),
    budget && began && !isOver && `${Math.round(spent / 60)} of ${Math.round(budget / 60)} min`];
  one(".progress-words").textContent = words.filter(Boolean).join(", ");
}

// What runs now, every second, without asking: the job's own event carries it.
function tick(running) {
  const written = { step: ({ step, total_steps: total }) => `${step ?? ""}${total ? ` / ${total}` : ""}`,
    score: ({ score }) => (typeof score === "number" ? places(score) : ""),
    training_seconds: ({ training_seconds: seconds }) => seconds?.toFixed(2) ?? "" };
  for (const [name, told] of Object.entries(running ?? {})) {
    const row = one(`tr[data-trial="${CSS.escape(name)}"]`);
    for (const [of, text] of Object.entries(row ? written : {})) one(`[data-of="${of}"]`, row).textContent = text(told);
  }
}

export function sweepPage() {
  const job = one("#job");
  const base = pathOf(job);

  async function read() {
    const parts = all("[data-from]").map(fetchAnew); // the answer takes longest, and nothing else waits for it
    drawThem(await steadily(`${base}/figures`));
    await Promise.all(parts);
    if (one("#rows")) drawThem((await steadily(`${base}/findings?figures=true`)).figures);
  }

  let shown = null;
  let reading = Promise.resolve();
  actions(job);
  const events = listen(`${base}/events`, {
    job: (told) => {
      showJob(told, job);
      showProgress(told);
      linksOf(job, told);
      one("#report").hidden = told.state !== "succeeded";
      const state = `${told.state} ${told.progress.runs} ${told.progress.runs_over}`;
      if (state !== shown) reading = reading.then(read).catch((error) => say(error.message));
      else tick(told.progress.running);
      shown = state;
      logOf(job, told.attempt);
    },
    deleted: () => say(`This ${job.dataset.kind} was deleted.`),
    over: () => events.close(),
  });
}
