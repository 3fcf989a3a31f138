// Lines and points, by plotly, in the page's own colours.

import { one } from "./talk.js";

export const AXES = { training_seconds: "training seconds", samples_seen: "samples", tokens_seen: "tokens", step: "steps", cost: "device seconds" };
export const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#777777"];
const MOST_IN_LEGEND = 4;
const FORM = { responsive: true, displaylogo: false, displayModeBar: false };

function colours() {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(["ink", "line", "raised"].map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

export const FROM_START = { rangemode: "nonnegative" }; // nothing was measured before a run began
export const along = (records, axis) => records.map((record) => record[axis === "cost" ? "device_seconds" : axis]);
export const trace = (name, x, y, more = {}) => ({ name, x, y, type: "scatter", mode: x.length > 60 ? "lines" : "lines+markers", ...more });
export const hasPoints = ({ y }) => y.some((value) => value !== null && value !== undefined);

// A few values that are many times most of the others would press these against the axis: then an axis of logarithms, where there are any.
export function spread(traces) {
  const values = traces.flatMap(({ y }) => y).filter((value) => value !== null && value !== undefined).sort((a, b) => a - b);
  return values.length && values[0] > 0 && values.at(-1) > 20 * values[Math.floor(values.length / 2)] ? { type: "log", tickformat: "~g" } : { type: "linear" };
}

// Axes without a point would look like a measurement of nothing: a chart without one says so in words.
export function draw(id, traces, xTitle, extra = {}) {
  const place = document.getElementById(id);
  if (!place || !window.Plotly) return;
  const shown = traces.filter(hasPoints);
  const isBlank = shown.length === 0;
  if (isBlank || place.classList.contains("blank")) {
    window.Plotly.purge(place);
    place.textContent = isBlank ? extra.blank ?? "Nothing to draw yet." : "";
  }
  place.classList.toggle("blank", isBlank);
  if (isBlank) return;
  const { ink, line } = colours();
  const axis = { gridcolor: line, zerolinecolor: line, automargin: true, nticks: 8 }; // so many at most are three at least, round as they are
  const layout = {
    margin: { l: 50, r: 15, t: 10, b: 45 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: ink },
    xaxis: { ...axis, title: { text: xTitle }, ...extra.xaxis }, yaxis: { ...axis, ...extra.yaxis },
    shapes: extra.level ? [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: extra.level, y1: extra.level, line: { color: "#888888", dash: "dot" } }] : [],
    showlegend: extra.showlegend ?? traces.length > 1, annotations: extra.annotations, legend: { orientation: "h", y: 1.02, yanchor: "bottom" }, uirevision: "kept", hovermode: "closest",
  };
  window.Plotly.react(place, shown, layout, FORM);
}

// One figure for report, MLflow and page: the server describes it, the page gives it its colours.
export function drawFigure(id, figure) {
  const { ink, line, raised } = colours();
  const axis = (given) => ({ ...given, gridcolor: line, zerolinecolor: line, linecolor: line, ticks: "outside", ticklen: 4, tickcolor: line });
  const { xaxis, yaxis, ...layout } = figure.layout;
  document.getElementById(id).classList.toggle("tall", layout.showlegend && figure.data.length > MOST_IN_LEGEND); // else the legend takes the figure's room
  const isNarrow = innerWidth < 600; // labels at the right take less there
  const annotations = (layout.annotations ?? []).map((note) => ({ ...note, ...(isNarrow && note.name === "label" && { font: { size: 10 } }), ...(note.name === "tick" && { bgcolor: raised }) }));
  const data = figure.data.map((of) => (of.type === "heatmap" ? { ...of, showscale: false } : of)); // its cells hold the numbers
  window.Plotly?.react(id, data, { ...layout, annotations, title: undefined, font: { color: ink, size: 12 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 60, r: Math.min(layout.margin.r, isNarrow ? 108 : Infinity), t: 15, b: 60 },
    xaxis: axis(xaxis), yaxis: axis(yaxis), legend: { orientation: "h", y: 1.02, yanchor: "bottom" } }, FORM);
}

// The axis in tokens is there for runs that count in them, all of those that are drawn.
export function offerTokens(starts) {
  one('#axis option[value="tokens_seen"]').hidden = !starts.every((start) => start?.tokens_per_sample);
}

// Drawn again where what it looks like has changed.
export function redraw(render) {
  for (const id of ["#axis", "#metric"]) one(id)?.addEventListener("change", render);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", render);
  addEventListener("load", render);
}
