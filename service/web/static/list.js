// What keeps lists and the cluster's page up to date: the server makes every row, the script brings new ones and fills what moves.

import { fill } from "./job.js";
import { all, listen, one, steadily } from "./talk.js";

const BETWEEN_MS = 2000;
// This page as the server would make it now.
const anew = async () => new DOMParser().parseFromString(await steadily(location.href, (answer) => answer.text()), "text/html");

export function clusterPage() {
  const again = async () => {
    const fresh = one("#live", await anew());
    if (fresh) one("#live").replaceWith(fresh); else location.reload(); // the session is over
    setTimeout(again, BETWEEN_MS);
  };
  setTimeout(again, BETWEEN_MS);
}

export function listPage() {
  const table = one("#jobs");
  document.addEventListener("keydown", ({ key }) => {
    const menu = one("details.menu[open]");
    if (key !== "Escape" || !menu) return;
    menu.open = false;
    one("summary", menu).focus();
  });
  const rowOf = (id) => one(`tr[data-id="${CSS.escape(id)}"]`, table);
  const others = new Map(); // a job that is not listed may come to be with its next state, not with its next step
  let asked = null;
  async function bringNew() {
    const page = await anew();
    let before = one("tbody", table).firstElementChild;
    for (const row of all("#jobs > tbody > tr[data-id]", page)) {
      const here = rowOf(row.dataset.id);
      if (here) before = here.nextElementSibling; else one("tbody", table).insertBefore(row, before);
    }
    one("#total").textContent = one("#total", page).textContent;
    table.hidden = one("#under").hidden = !one("tbody tr", table);
    one("#empty").hidden = !table.hidden;
    asked = null;
  }
  listen(`/v1/events?${table.dataset.kinds}`, {
    job: (job) => {
      const row = rowOf(job.id);
      if (row) fill(row, job); else if (others.get(job.id) !== job.state) asked ??= setTimeout(bringNew, BETWEEN_MS / 4);
      others.set(job.id, job.state);
    },
  });
  const every = Object.assign(one("#every"), { hidden: false });
  const tell = (button, of) => Object.assign(button, { disabled: Boolean(of), title: of ? `One of the chosen is ${of}'s, who alone changes it.` : "" });
  table.addEventListener("change", () => all("[data-changes]").forEach((button) => tell(button, one("tbody input:checked[data-of]", table)?.dataset.of)));
  every.addEventListener("change", () => all("tbody input[type=checkbox]", table).forEach((box) => { box.checked = every.checked; }));
}
