function folded(text, most) {
  const lines = [''];
  for (const word of text.split(' ')) {
    if (lines.at(-1) && lines.at(-1).length + word.length >= most) lines.push('');
    lines[lines.length - 1] += (lines.at(-1) ? ' ' : '') + word;
  }
  return lines.join('<br>');
}
function fitToPhone(figure) {
  const layout = figure.layout;
  layout.margin = {l: 50, r: 10, t: 70, b: 50};
  layout.title.text = folded(layout.title.text, 36);
  layout.xaxis.title.text = folded(layout.xaxis.title.text, 40);
  layout.xaxis.tickangle = -45;
  layout.font.size = 12;
  layout.legend.y = -0.45;
  for (const trace of figure.data) if (trace.type === 'heatmap') trace.showscale = false;  // its cells hold the numbers
}
for (const [name, figure] of Object.entries(figures)) {
  if (window.innerWidth < 600) fitToPhone(figure);
  Plotly.newPlot(name, figure.data, figure.layout, {responsive: true, displayModeBar: false}).then(() => Plotly.relayout(name, colours()));
}
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => {
  for (const name of Object.keys(figures)) Plotly.relayout(name, colours());
});
