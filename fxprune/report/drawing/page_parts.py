"""The fixed parts of the web page: style and behaviour. Everything is inline; the page loads nothing."""

STYLE = """
* { box-sizing: border-box }
body { font: 14px/1.45 system-ui, Helvetica, Arial, sans-serif; color: #222; margin: 0 auto; padding: 16px 16px 60px;
  max-width: 1500px }
h2 { font-size: 17px; margin: 32px 0 8px }
p { margin: 4px 0 10px; color: #444 }
.view { display: flex; gap: 16px; align-items: flex-start }
.drawing { flex: 1 1 auto; min-width: 0; border: 1px solid #ddd; border-radius: 4px; overflow: auto }
.drawing svg { display: block; margin: auto; max-width: 100%; height: auto }
aside { flex: 0 0 330px; position: sticky; top: 12px; max-height: calc(100vh - 24px); overflow: auto;
  border: 1px solid #ddd; border-radius: 4px; padding: 10px 12px; background: #fafbfc }
aside h3 { margin: 0 0 6px; font-size: 15px; overflow-wrap: anywhere }
aside table { font-size: 12px; margin-top: 8px }
aside td:nth-child(n + 2), aside th { white-space: nowrap }
aside td:nth-child(4), aside th:nth-child(4) { display: none }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: 4px 10px 4px 0; border-bottom: 1px solid #e6e8ea; vertical-align: top;
  overflow-wrap: anywhere }
#groups > thead th { position: sticky; top: 0; background: #fff; white-space: nowrap }
th.number, td.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; padding-right: 24px }
th button { font: inherit; font-weight: bold; border: 0; padding: 0; background: none; cursor: pointer }
th button::after { content: " \\2195"; color: #aaa }
th[aria-sort=ascending] button::after { content: " \\2191"; color: #222 }
th[aria-sort=descending] button::after { content: " \\2193"; color: #222 }
tbody.group > tr:first-child { cursor: pointer }
tbody.group > tr:first-child:hover, tbody.lit > tr:first-child { background: #fff3dc }
.members > td { background: #fafbfc }
.members table { width: auto }
.members table th, .members table td { border-bottom: 0; padding: 1px 24px 1px 0; font-size: 13px }
input { font: inherit; padding: 4px 8px; width: min(360px, 100%); border: 1px solid #bbb; border-radius: 4px }
code { font-size: 12px }
.share { display: inline-block; height: 8px; background: #fc8d59; margin-right: 6px }
.warning { background: #fff3cd; padding: 6px 10px; border-radius: 4px }
svg .box { cursor: pointer }
svg.busy .box, svg.busy .edge, svg.busy .joint { opacity: .22 }
svg.busy .box.lit, svg.busy .edge.lit, svg.busy .joint.lit, svg.busy .legend .edge { opacity: 1 }
svg .edge.lit { stroke-width: 2.4 }
svg .box.pinned rect { stroke: #000; stroke-width: 2.4 }
@media (max-width: 1000px) { .view { display: block } aside { position: static; margin-top: 12px } }
"""

SCRIPT = """
'use strict';
const svg = document.querySelector('.drawing svg'), panel = document.querySelector('aside');
const boxes = new Map([...svg.querySelectorAll('.box')].map(b => [b.dataset.key, b]));
const rows = new Map([...document.querySelectorAll('tbody.group')].map(r => [r.dataset.key, r]));
const joints = new Map([...svg.querySelectorAll('.joint')].map(j => [j.dataset.key, j]));
const edges = [...svg.querySelectorAll('.edge[data-from]')];
const hint = panel.innerHTML;
let pinned = null;

function reach(key, from, to, found) {            // edges that lead on from `key`, through joints
  for (const e of edges) {
    if (e.dataset[from] !== key || found.has(e)) continue;
    found.add(e);
    if (joints.has(e.dataset[to])) reach(e.dataset[to], from, to, found);
  }
  return found;
}
function show(key) {
  document.querySelectorAll('.lit').forEach(e => e.classList.remove('lit'));
  svg.classList.toggle('busy', key !== null);
  if (key === null) { panel.innerHTML = hint; return; }
  const near = [...reach(key, 'from', 'to', new Set()), ...reach(key, 'to', 'from', new Set())];
  for (const e of near) {
    e.classList.add('lit');
    for (const end of [e.dataset.from, e.dataset.to]) (boxes.get(end) || joints.get(end)).classList.add('lit');
  }
  boxes.get(key).classList.add('lit');
  panel.replaceChildren();
  const head = panel.appendChild(document.createElement('h3'));
  head.textContent = boxes.get(key).dataset.name;
  const row = rows.get(key);
  if (row) row.classList.add('lit');
  const text = boxes.get(key).querySelector('title').textContent.split('\\n');
  const facts = text.slice(1, row ? 5 : 20);
  for (const line of facts) panel.appendChild(document.createElement('div')).textContent = line;
  if (row) row.querySelectorAll('.members td:last-child > *').forEach(e => panel.appendChild(e.cloneNode(true)));
}
function pin(key) {
  boxes.forEach(b => b.classList.remove('pinned'));
  pinned = pinned === key ? null : key;
  if (pinned !== null) boxes.get(pinned).classList.add('pinned');
  show(pinned);
}
boxes.forEach((box, key) => {
  box.addEventListener('mouseenter', () => { if (pinned === null) show(key); });
  box.addEventListener('mouseleave', () => { if (pinned === null) show(null); });
  box.addEventListener('click', () => pin(key));
});
document.addEventListener('keydown', e => { if (e.key === 'Escape' && pinned !== null) pin(pinned); });
rows.forEach(row => row.rows[0].addEventListener('click', () => { row.rows[1].hidden = !row.rows[1].hidden; }));

const table = document.querySelector('#groups');
table.querySelectorAll('th button').forEach(button => button.addEventListener('click', () => {
  const head = button.parentElement, column = head.cellIndex, down = head.getAttribute('aria-sort') === 'ascending';
  table.querySelectorAll('th').forEach(h => h.removeAttribute('aria-sort'));
  head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
  const value = row => row.rows[0].cells[column].dataset.value ?? row.rows[0].cells[column].textContent;
  const order = (a, b) => value(a).localeCompare(value(b), undefined, {numeric: true});
  const number = (a, b) => Number(value(a)) - Number(value(b));
  const compare = head.classList.contains('number') ? number : order;
  [...rows.values()].sort((a, b) => down ? compare(b, a) : compare(a, b)).forEach(row => table.appendChild(row));
}));
document.querySelector('#filter').addEventListener('input', event => {
  const words = event.target.value.toLowerCase().split(/\\s+/);
  rows.forEach(row => {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every(word => text.includes(word));
  });
});
"""
