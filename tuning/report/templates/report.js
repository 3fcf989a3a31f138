const PAPER = {width: 660, height: 290};

function folded(text, most) {
  const lines = [''];
  for (const word of text.split(' ')) {
    if (lines.at(-1) && lines.at(-1).length + word.length >= most) lines.push('');
    lines[lines.length - 1] += (lines.at(-1) ? ' ' : '') + word;
  }
  return lines.join('<br>');
}
function fitToPhone(figure) {
  const layout = figure.layout, labels = (layout.annotations ?? []).filter(({name}) => name === 'label');
  layout.margin = {l: 50, r: labels.length ? 108 : 10, t: 20, b: 50};
  layout.xaxis.title.text = folded(layout.xaxis.title.text, 40);
  layout.xaxis.tickangle = -45;
  layout.font.size = 12;
  for (const label of labels) label.font.size = 10;
  layout.legend.y = -0.45;
  for (const trace of figure.data) if (trace.type === 'heatmap') trace.showscale = false;  // its cells hold the numbers
}
for (const [name, figure] of Object.entries(figures)) {
  delete figure.layout.title;  // the page has it as a heading
  figure.layout.margin.t = 20;
  if (window.innerWidth < 600) fitToPhone(figure);
  Plotly.newPlot(name, figure.data, figure.layout, {responsive: true, displayModeBar: false}).then(() => Plotly.relayout(name, colours()));
}
function redraw(size) {
  for (const name of Object.keys(figures)) Plotly.relayout(name, {...colours(), ...size});
}
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => redraw({}));
addEventListener('beforeprint', () => {  // on paper it is light, and as wide as a page
  document.documentElement.classList.add('printed');
  redraw(PAPER);
});
addEventListener('afterprint', () => {
  document.documentElement.classList.remove('printed');
  redraw({width: null, height: null, autosize: true});
});
