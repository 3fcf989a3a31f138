// The forms that start a run or a sweep.

import { all, ask, made, one, say } from "./talk.js";

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
  if (!problem) {
    say("");
    return;
  }
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

export function formPage() {
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
        made("dt", { textContent: what }), made("dd", { textContent: how })]));
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
