// The forms that start jobs work without this. With it what is typed stands in the address, so that Back keeps it; the page stays where it is while the
// server looks at what was typed; and what follows from a choice is filled in at once.

import { all, one, say } from "./talk.js";

// The form as it is typed, but for the key of this sending.
function typed(form) {
  const fields = new URLSearchParams(new FormData(form));
  fields.delete("key");
  return fields;
}

async function send(form, button) {
  const body = new URLSearchParams(new FormData(form, button));
  const isChoice = button?.formMethod === "get";
  const address = `${location.pathname}?${typed(form)}`;
  button?.setAttribute("disabled", "");
  const answer = await (isChoice ? fetch(address) : fetch(form.action, { method: "POST", body })).catch(() => null);
  button?.removeAttribute("disabled");
  if (!answer) say("The service does not answer; your changes are still here.");
  else if (answer.redirected) location.assign(answer.url);
  else {
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    one("#main").replaceWith(document.adoptNode(one("#main", page)));
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
