// What moves on the pages: live tables and curves, the forms, cancel and resume. Each page has its own file.

import { comparePage } from "./compare.js";
import { formPage } from "./forms.js";
import { clusterPage, listPage } from "./list.js";
import { runPage } from "./run.js";
import { sweepPage } from "./sweep.js";
import { all } from "./talk.js";

const PAGES = { jobs: listPage, cluster: clusterPage, run: runPage, sweep: sweepPage, compare: comparePage, "new-job": formPage };
PAGES[document.body.dataset.page]?.();
// A button that only a script answers is disabled in the page: until here a press of it would be lost.
for (const button of all("button[data-script]")) button.disabled = false;
