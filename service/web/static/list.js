// The lists of runs and of sweeps.

import { fill } from "./job.js";
import { listen, made, one } from "./talk.js";

export function listPage() {
  const table = one("#jobs");
  if (table.dataset.live !== "yes") return;
  listen(`/v1/events?kind=${table.dataset.kind}`, {
    job: (job) => {
      const row = one(`tr[data-id="${CSS.escape(job.id)}"]`, table);
      if (row) fill(row, job);
      else addRow(table, job);
    },
  });
}

function addRow(table, job) {
  const cell = (name, number = true) => {
    const place = made("td");
    if (number) place.className = "number";
    if (name) place.dataset.cell = name;
    return place;
  };
  const row = made("tr");
  row.dataset.id = job.id;
  const name = made("td");
  name.append(made("a", { href: `${table.dataset.path}/${encodeURIComponent(job.id)}`, textContent: job.id }));
  const state = made("td");
  const mark = made("span");
  mark.dataset.cell = "state";
  state.append(mark);
  const owner = made("td", { textContent: job.owner });
  const asked = made("td", { textContent: job.created_at.slice(0, 16).replace("T", " ") });
  if (job.kind === "run") {
    const choose = made("td");
    choose.append(made("input", { type: "checkbox", name: "run", value: job.id, ariaLabel: `Compare ${job.id}` }));
    const batch = Object.assign(cell(""), { textContent: job.global_batch_size ?? job.progress.global_batch_size ?? "-" });
    row.append(choose, name, state, batch, cell("score"), cell("training_seconds"), cell("step"), owner, asked);
  } else row.append(name, state, cell("runs_over"), owner, asked);
  one("tbody", table).prepend(row);
  table.hidden = one("#under").hidden = false;
  one("#empty").hidden = true;
  fill(row, job);
}
