// The page of one run.

import { AXES, COLOURS, FROM_START, along, draw, offerTokens, redraw, spread, trace } from "./charts.js";
import { Curves, POINTS, speeds } from "./curves.js";
import { actions, linksOf, logOf, pathOf, showJob } from "./job.js";
import { FINAL, all, fetchAnew, listen, made, one, say, steadily } from "./talk.js";

const DRAW_MS = 250;

// How far it is: by steps, and by training time, which ends sooner where the target is met before.
function showProgress({ state, progress: { step, total_steps: total, training_seconds_left: left, is_over: isOver } }) {
  if ((one("#progress").hidden = !total)) return;
  const isDone = state === "succeeded"; // perhaps before the last step that there might have been
  const isEnding = isOver && !FINAL.has(state); // what it has made is still evaluated, and sent to MLflow
  Object.assign(one("#progress progress"), { max: total, value: isDone ? total : step });
  const time = isEnding ? "; its results are being kept" : left && !FINAL.has(state) ? `, at most ${left < 90 ? `${Math.ceil(left)} s` : `${Math.ceil(left / 60)} min`} of training left` : "";
  one(".progress-words").textContent = `${isEnding || (isDone && step < total) ? "Ended at step" : "Step"} ${step.toLocaleString("en")} of ${total.toLocaleString("en")}${time}`;
}

function drawAll({ steps: { kept: steps }, noise: { kept: noise }, dualNoise: { kept: dual }, evaluations, start }, isOver) {
  const part = start?.evaluated_on ?? "test";
  const perSample = start?.tokens_per_sample ?? 1;
  const unit = start?.tokens_per_sample ? "tokens" : "samples";
  offerTokens([start]);
  all(".unit").forEach((place, index) => { place.textContent = index ? unit : unit[0].toUpperCase() + unit.slice(1); });
  const axis = one("#axis").value;
  const isEmpty = steps.length + evaluations.length === 0;
  one("#waiting").hidden = !isEmpty;
  one(".charts").hidden = isEmpty;
  if (isEmpty) return; // what is drawn while hidden keeps a size of its own
  const put = (id, traces, extra) => draw(id, traces, AXES[axis], { xaxis: FROM_START, ...extra });
  const of = (name, records, field, colour = 0) => trace(name, along(records, axis), records.map((r) => r[field]), { line: { color: COLOURS[colour] } });
  const { metric, target } = one("#job").dataset;
  put("c-score", [of(`${part} ${metric}`, evaluations, "score")], { blank: "Not evaluated yet.", level: target && Number(target) });
  const losses = [of("train", steps, "loss"), of(part, evaluations.map((r) => ({ ...r, loss: r.scores.loss })), "loss", 1)];
  put("c-loss", losses, { yaxis: spread(losses) });
  put("c-rate", [of("learning rate", steps, "learning_rate")]);
  const speed = speeds(steps, `${unit}_seen`);
  put("c-speed", [trace(`${unit} per second`, along(speed.map(([record]) => record), axis), speed.map(([, value]) => value))],
    { yaxis: { rangemode: "tozero" } });
  const inUnit = (records, field) => records.map((r) => ({ ...r, scale: r[field] === null ? null : r[field] * perSample }));
  const own = dual.length ? [of("in the optimizer's own norm", inUnit(dual, "dual_noise_scale"), "scale", 1)] : [];
  put("c-noise", [of(dual.length ? "Euclidean" : "noise scale", inUnit(noise, "gradient_noise_scale"), "scale"), ...own],
    { yaxis: { rangemode: "tozero" }, blank: isOver ? "Not measured: the plan says why, or how often it would be." : "Not measured so far." });
}

export function runPage() {
  const job = one("#job");
  let curves = null; // until then the page stays as the server wrote it
  let [events, waiting, shown] = [null, null, null];
  let [attempt, state] = [0, job.dataset.state];
  const render = () => { waiting = null; if (curves) drawAll(curves, FINAL.has(state)); };
  const soon = () => { waiting ??= setTimeout(render, DRAW_MS); };
  const note = (text) => one("#notices").append(made("li", { textContent: text }));

  // The whole as it stands, then what comes after it. A start may supersede what was drawn: then the whole is asked for anew.
  async function follow() {
    events?.close();
    const series = await steadily(`${pathOf(job)}/series?points=${POINTS}`);
    curves = new Curves(series);
    one("#notices").replaceChildren(one("#notices li"), ...series.happened.map(({ text }) => made("li", { textContent: text })));
    soon();
    if (job.dataset.isTrial) {
      if (job.dataset.state === "running") setTimeout(anew, 5000); // nothing tells of a sweep's runs one by one
      return;
    }
    events = listen(`${pathOf(job)}/events?after=${series.next_after}`, {
      start: anew,
      end: anew,
      step: (record) => { curves.addStep(record); soon(); },
      evaluation: (record) => { curves.addEvaluation(record); soon(); },
      notice: ({ text }) => note(text),
      job: (told) => {
        ({ attempt, state } = told);
        soon();
        showJob(told, job);
        showProgress(told);
        const now = `${told.state} ${attempt} ${Boolean(told.progress.step)}`;
        if (shown && now !== shown) all("[data-from]").forEach(fetchAnew);
        shown = now;
        linksOf(job, told);
        logOf(job, attempt);
      },
      deleted: () => say("This run was deleted."),
      over: () => { events.close(); logOf(job, attempt); },
    });
  }
  const anew = () => follow().catch((error) => say(error.message));

  actions(job);
  redraw(render);
  anew();
}
