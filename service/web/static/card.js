// The card that an answer begins with, as the service tells it: this page adds no word of its own.

import { made } from "./talk.js";

function line(label, ...contents) {
  const row = made("div");
  const text = made("dd");
  text.append(...contents);
  row.append(made("dt", { textContent: label }), text);
  return row;
}

const copies = (from, textContent) => {
  const button = made("button", { type: "button", textContent });
  button.dataset.copies = from; // copies.js hears it
  return button;
};

function training({ command, text }) {
  const buttons = made("span", { className: "copies" });
  buttons.append(copies("command", "Copy command"), copies("recipe", "Copy recipe"));
  const whole = made("details");
  whole.append(made("summary", { textContent: "The recipe, recipe.yaml" }), made("pre", { id: "recipe", tabIndex: 0, textContent: text }));
  return line("Train it", made("code", { id: "command", textContent: command }), buttons, whole);
}

export function showCard(place, card) {
  place.hidden = !card;
  if (!card) return;
  place.className = `answer-card ${card.verdict}`;
  const lines = made("dl");
  lines.append(...card.lines.map(({ label, text }) => line(label, text)), ...(card.recipe ? [training(card.recipe)] : []));
  place.replaceChildren(made("p", { className: "setting", textContent: card.setting }), made("h2", { textContent: card.title }), lines);
}
