// The forms that start jobs, which work without this: keeps what is typed in the address, the page in place, and fills in what follows from a choice.

import { all, one, say } from "./talk.js";

// The form as it is typed, but for the key of this sending, and a file, which no address can hold.
const typed = (form) => new URLSearchParams([...new FormData(form)].filter(([name]) => !["key", "zip"].includes(name)));

// While a plan is worked out: what it waits for and how long that may take, in the server's words.
async function tellWait(button, place) {
  const text = await fetch("/plan/wait").then((answer) => (answer.ok ? answer.text() : ""), () => "");
  if (button.disabled && text !== place.textContent) place.textContent = text;
  if (button.disabled) setTimeout(tellWait, 1000, button, place);
}

async function send(form, button) {
  const chosen = one("[type=file]", form)?.files;
  const isChoice = button?.formMethod === "get";
  say("");
  const asked = isChoice ? fetch(`?${typed(form)}`) : fetch(form.action, { method: "POST", body: new FormData(form, button) }); // of a disabled one nothing is sent
  button?.setAttribute("disabled", "");
  if (button?.value === "plan") tellWait(button, one("#planning"));
  const answer = await asked.catch(() => null);
  button?.removeAttribute("disabled");
  one("#planning").textContent = "";
  if (!answer) say("The service does not answer; your changes are still here.");
  else if (answer.redirected) location.assign(answer.url);
  else if (answer.headers.get("content-type").includes("json")) say((await answer.json()).detail);
  else {
    one("#main").replaceWith(document.adoptNode(one("#main", new DOMParser().parseFromString(await answer.text(), "text/html"))));
    if (isChoice && chosen?.length) one("[type=file]").files = chosen; // nothing was sent: it stays chosen
    formPage();
    one("[autofocus]")?.focus();
  }
}

export function formPage() {
  const form = one("#submit");
  form.addEventListener("submit", (event) => { event.preventDefault(); send(form, event.submitter); });
  form.addEventListener("input", () => history.replaceState(null, "", `?${typed(form)}`));
  for (const button of all(".follows button", form)) {
    button.parentElement.hidden = true;
    for (const field of all("[data-decides]", button.closest("fieldset"))) {
      field.addEventListener("change", () => form.requestSubmit(button));
      if (!field.selectedOptions[0].defaultSelected && one("[selected]", field)) form.requestSubmit(button); // chosen before this script was there
    }
  }
}
