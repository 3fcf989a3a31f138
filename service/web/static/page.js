// What moves on the pages: live tables and curves, the forms, cancel and resume. Each page has its own file, and loads no other.

import { all } from "./talk.js";

const PAGES = {
  jobs: ["list", "listPage"], cluster: ["list", "clusterPage"], run: ["run", "runPage"],
  sweep: ["sweep", "sweepPage"], compare: ["compare", "comparePage"], "new-job": ["forms", "formPage"],
};
const [file, begin] = PAGES[document.body.dataset.page] ?? [];
if (file) (await import(`./${file}.js`))[begin]();
for (const form of all("form[data-confirm]")) {
  form.addEventListener("submit", (event) => { if (!window.confirm(form.dataset.confirm)) event.preventDefault(); });
}
// A button that only a script answers is disabled in the page: until here a press of it would be lost.
for (const button of all("button[data-script]")) button.disabled = false;
