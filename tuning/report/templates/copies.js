// A button that copies the text of the element it names: in reports and on the service's pages.
async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = Object.assign(document.createElement('textarea'), {value: text});  // an address without https has no clipboard
  document.body.append(area);
  area.select();
  document.execCommand('copy');
  area.remove();
}
document.addEventListener('click', async ({target}) => {
  const from = target.dataset?.copies;
  if (!from) return;
  const words = target.textContent;
  await copy(document.getElementById(from).textContent);
  target.textContent = 'Copied';
  setTimeout(() => { target.textContent = words; }, 1500);
});
