// What the pages' parts share: elements, the notice on top, and how the service is asked. Everything comes from /v1.

export const one = (selector, within = document) => within.querySelector(selector);
export const all = (selector, within = document) => [...within.querySelectorAll(selector)];
export const made = (tag, properties = {}) => Object.assign(document.createElement(tag), properties);
export const FINAL = new Set(["succeeded", "failed", "cancelled"]);

const AWAY = "The service does not answer. This page goes on by itself when it does.";
const RETRY_MS = 3000;
const pause = () => new Promise((go) => { setTimeout(go, RETRY_MS); });

export function say(text) {
  const notice = one("#notice");
  notice.textContent = text;
  notice.hidden = !text;
}

// It answers again: the notice that it does not is over.
function back() {
  if (one("#notice").textContent === AWAY) say("");
}

// One request. An error has the service's `problem`, or none where nothing answered.
async function fetched(path, options) {
  const answer = await fetch(path, options).catch(() => null);
  if (!answer) throw new Error("The service does not answer. Try again in a moment.");
  if (answer.status === 401) location.assign(`/login?next=${encodeURIComponent(location.pathname + location.search)}`);
  if (answer.ok) return answer;
  const problem = await answer.json().catch(() => ({ detail: `The service does not answer as it should (HTTP status ${answer.status}).` }));
  throw Object.assign(new Error(problem.detail), { problem, status: answer.status });
}

// Asked once: what a person does. Raises.
export async function ask(path, options = {}) {
  const answer = await fetched(path, { headers: { "Content-Type": "application/json", ...options.headers }, ...options });
  return answer.status === 204 ? null : answer.json();
}

// Asked until it is answered: what a page shows. Raises only what asking again would not change.
export async function steadily(path, read = (answer) => answer.json()) {
  for (;;) {
    try {
      const found = await read(await fetched(path));
      back();
      return found;
    } catch (error) {
      if (error.status < 500 && error.status !== 429) throw error;
      say(AWAY);
      await pause();
    }
  }
}

// A part of the page as the server draws it now; what a person has opened there stays open.
export async function fetchAnew(place) {
  const open = all("details[open]", place).map(({ id }) => id);
  place.innerHTML = await steadily(place.dataset.from, (answer) => answer.text());
  for (const id of open) one(`#${id}`, place)?.setAttribute("open", "");
}

// What a stream tells, by the events' names. One that was refused is asked for again by a new page: signed in anew, or when the service is back.
export function listen(path, heard) {
  const events = new EventSource(path);
  for (const [name, told] of Object.entries(heard)) events.addEventListener(name, (event) => told(JSON.parse(event.data)));
  events.addEventListener("open", back);
  events.addEventListener("error", () => {
    say(AWAY);
    if (events.readyState !== EventSource.CLOSED) return; // it tries again by itself
    pause().then(() => steadily("/v1/runs?limit=1")).then(() => location.reload(), (error) => say(error.message));
  });
  return events;
}
