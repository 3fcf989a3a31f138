// The forms that start jobs, which work without this: keeps what is typed in the address, the page in place, and fills in what follows from a choice.

import { all, one, say } from "./talk.js";

// The form as it is typed, but for the key of this sending, and a file, which no address can hold.
function typed(form) {
  const fields = new URLSearchParams(new FormData(form));
  for (const name of ["key", "zip"]) fields.delete(name);
  return fields;
}

async function send(form, button) {
  const body = form.enctype === "multipart/form-data" ? new FormData(form, button) : new URLSearchParams(new FormData(form, button));
  const chosen = one("[type=file]", form)?.files;
  const isChoice = button?.formMethod === "get";
  say("");
  button?.setAttribute("disabled", "");
  const answer = await (isChoice ? fetch(`${location.pathname}?${typed(form)}`) : fetch(form.action, { method: "POST", body })).catch(() => null);
  button?.removeAttribute("disabled");
  if (!answer) say("The service does not answer; your changes are still here.");
  else if (answer.redirected) location.assign(answer.url);
  else if (answer.headers.get("content-type").includes("json")) say((await answer.json()).detail);
  else {
    one("#main").replaceWith(document.adoptNode(one("#main", new DOMParser().parseFromString(await answer.text(), "text/html"))));
    if (isChoice && chosen?.length) one("[type=file]").files = chosen; // nothing was sent: it stays chosen
    formPage();
    (one(".wrong input, .wrong textarea, .general") ?? one("#planned"))?.scrollIntoView({ block: "center" });
    one(".wrong input, .wrong textarea, .general")?.focus();
  }
}

export function formPage() {
  const form = one("#submit");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send(form, event.submitter);
  });
  form.addEventListener("input", () => history.replaceState(null, "", `?${typed(form)}`));
  for (const place of all(".follows", form)) {
    const button = one("button", place);
    place.hidden = true;
    for (const field of all("[data-decides]", place.parentElement)) {
      field.addEventListener("change", () => form.requestSubmit(button));
      if (!field.selectedOptions[0].defaultSelected && one("[selected]", field)) form.requestSubmit(button); // chosen before this script was there
    }
  }
}
