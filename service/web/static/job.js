// What the pages of a run and of a sweep share: how it stands, what can be done with it, its links and its log.

import { FINAL, all, ask, one, steadily } from "./talk.js";

// As `in_places` in jobs/tasks/metric.py writes a score.
export const places = (value) => (!value || Math.abs(value) >= 0.01 ? value.toFixed(4) : String(Number(value.toPrecision(4))));
const WRITERS = { score: places, best_score: places, training_seconds: (value) => `${value.toFixed(1)} s`, step: (value) => value.toLocaleString("en") };
const STOPPING = "It finishes its step, saves and ends.";
export const pathOf = (job) => job.dataset.path;

export function fill(place, job) {
  const values = { ...job.progress, state: job.state, outcome: job.outcome, attempt: job.attempt };
  for (const cell of all("[data-cell]", place)) {
    const name = cell.dataset.cell;
    const value = values[name];
    if (value === undefined || value === null) continue;
    cell.textContent = (WRITERS[name] ?? String)(value);
    if (name === "state" || name === "outcome") cell.className = `${name} ${value}`;
  }
}

// What came of a press stands beside its button until the next one, whatever the notice on top says meanwhile.
function tellPressed(text) {
  Object.assign(one("#pressed"), { textContent: text, hidden: !text });
}

export function actions(job) {
  for (const button of all("[data-act]")) {
    button.addEventListener("click", async () => {
      const act = button.dataset.act;
      if (act === "delete" && !confirm(`Delete ${job.dataset.id} and its files?`)) return;
      button.disabled = true;
      tellPressed("");
      try {
        await ask(act === "delete" ? pathOf(job) : `${pathOf(job)}/${act}`, { method: act === "delete" ? "DELETE" : "POST" });
        if (act === "delete") location.assign(job.dataset.list);
        else if (act === "resume") location.reload();
        else tellPressed(STOPPING);
      } catch (error) {
        const lost = `The service did not answer: ${button.textContent} may not have reached it, and is not sent again. Press it again once the service answers.`;
        tellPressed(error.problem ? error.message : lost);
      }
      button.disabled = false;
    });
  }
}

export function showJob(job, place) {
  fill(place, job);
  Object.assign(one("#reason"), { textContent: job.reason ?? "", hidden: !job.reason, className: job.state === "failed" ? "banner bad" : "note" });
  one("#queued").hidden = job.state !== "queued";
  const isFinal = FINAL.has(job.state);
  if (isFinal && one("#pressed").textContent === STOPPING) tellPressed("");
  const show = (act, visible) => all(`[data-act="${act}"]`).forEach((button) => { button.hidden = !visible; });
  show("cancel", !isFinal);
  show("resume", job.state === "failed" || job.state === "cancelled");
  show("delete", isFinal);
}

// Links that come only once a job has begun: the server makes them, of what its operator said.
const asked = { attempt: 0, atS: 0 };
export async function linksOf(job, told) {
  const waiting = all("[data-link]").filter((item) => item.hidden || (item.dataset.link === "ray_dashboard_url" && asked.attempt !== told.attempt));
  const now = performance.now() / 1000;
  if (!told.attempt || !waiting.length || (now - asked.atS < 5 && !FINAL.has(told.state))) return;
  Object.assign(asked, { attempt: told.attempt, atS: now });
  const details = await ask(pathOf(job)).catch(() => ({})); // the next event asks again
  for (const item of waiting) {
    const address = details[item.dataset.link];
    if (!/^https?:\/\//.test(address ?? "")) continue;
    one("a", item).href = address;
    item.hidden = false;
  }
}

const log = { attempt: 0, offset: 0, busy: false };
export async function logOf(job, attempt) {
  const place = one("#log");
  if (log.busy || !attempt) return;
  log.busy = true;
  if (attempt !== log.attempt) {
    Object.assign(log, { attempt, offset: 0 });
    place.textContent = "";
  }
  const follows = place.scrollTop + place.clientHeight >= place.scrollHeight - 5;
  const page = async (answer) => ({ next: Number(answer.headers.get("X-Next-Offset")), text: await answer.text() });
  try {
    for (;;) {
      const { next, text } = await steadily(`${pathOf(job)}/logs?attempt=${attempt}&offset=${log.offset}`, page);
      if (next <= log.offset) break;
      place.append(text.replace(/^\{"run_id":.*\}\n?/gm, "")); // the summary is for programs, and the page shows it
      log.offset = next;
    }
  } catch {
    // The log is not there (any more): what is shown of it stays.
  } finally {
    log.busy = false;
  }
  if (follows) place.scrollTop = place.scrollHeight;
}
