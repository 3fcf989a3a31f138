function colours() {
  const style = getComputedStyle(document.documentElement);
  const text = style.getPropertyValue('--text').trim(), line = style.getPropertyValue('--line').trim();
  return {'font.color': text, 'xaxis.gridcolor': line, 'yaxis.gridcolor': line, 'xaxis.linecolor': line, 'yaxis.linecolor': line};
}
