const STEP_MS = 120;
const byId = id => document.getElementById(id);
const surface = byId('surface'), side = byId('side'), step = byId('step'), play = byId('play'), panels = byId('panels');
const dark = matchMedia('(prefers-color-scheme: dark)');
let shown = [], playing = null;

function draw() {
  const scene = scenes[surface.value];
  byId('words').textContent = `${scene.equation}. ${scene.words}`;
  byId('conditions').textContent = scene.conditions;
  for (const panel of panels.children) Plotly.purge(panel);
  shown = side.value === 'all' ? scene.sides : [scene.sides[side.value]];
  panels.classList.toggle('alone', shown.length === 1);
  panels.replaceChildren(...shown.map(() => Object.assign(document.createElement('div'), {className: 'panel'})));
  step.max = Math.max(...scene.sides.map(side => side.arrows.length)) - 1;
  const isNarrow = window.innerWidth < 600;
  shown.forEach((side, number) => {
    const {data, layout} = structuredClone(scene.figure);
    Object.assign(layout, {showlegend: false, dragmode: false, hovermode: false, margin: {l: 50, r: 10, t: isNarrow ? 55 : 40, b: 45}});
    layout.title = {...layout.title, text: isNarrow ? side.title.replace(': ', ':<br>') : side.title, font: {size: 14}};
    layout.xaxis.zeroline = layout.yaxis.zeroline = false;
    Plotly.newPlot(panels.children[number], data, layout, {responsive: true, displayModeBar: false});
    Plotly.relayout(panels.children[number], colours());
  });
  show();
}
function show() {
  byId('at').value = `${step.value} of ${step.max}`;
  shown.forEach((side, number) => {
    const panel = panels.children[number], at = Math.min(step.value, side.arrows.length - 1);
    const lines = [side.path.slice(0, at + 1), ...side.arrows[at].map(([tail, tip]) => tail.join() === tip.join() ? [] : [tail, tip]), [side.path[at]]];
    const first = panel.data.findIndex(trace => trace.name === 'path');  // the path, three arrows and the ball come last
    Plotly.restyle(panel, {x: lines.map(line => line.map(point => point[0])), y: lines.map(line => line.map(point => point[1]))},
      lines.map((_, index) => first + index));
  });
}
function stop() {
  clearInterval(playing);
  playing = null;
  play.textContent = 'Play';
}
play.addEventListener('click', () => {
  if (playing) return stop();
  if (step.value === step.max) step.value = 0;
  play.textContent = 'Pause';
  playing = setInterval(() => {
    step.value = +step.value + 1;
    show();
    if (step.value === step.max) stop();
  }, STEP_MS);
});
step.addEventListener('input', () => { stop(); show(); });
side.addEventListener('change', draw);
surface.addEventListener('change', () => { stop(); begin(); });
dark.addEventListener('change', () => { for (const panel of panels.children) Plotly.relayout(panel, colours()); });
function begin() {
  step.max = Number.MAX_SAFE_INTEGER;  // the former surface's may be less
  step.value = scenes[surface.value].begins_at;
  draw();
}
begin();
