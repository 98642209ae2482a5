// The list of clients: its count, who is missing, its head, rows and pages.

import { change, columns, filterQuery, limit, order, pageNumber, pagesOf, sort } from './asked.js';
import { COLUMNS, DEFAULT, GROUPS, count, counted, inWords, isNone, shown } from './columns.js';
import { $, element, fill, setText } from './dom.js';
import { onLogout } from './session.js';

let total = 0;

// Shows an answer. Aloud it is said only to who has asked for it, as it comes every few seconds.
export function showList({ data, meta }, isWanted) {
  total = meta.count;
  setText($('list-error'), '');
  const said = `${meta.count_is ? 'at least ' : ''}${counted(total, 'client')}`
    + (filterQuery().size ? (total === 1 ? ' matches' : ' match') : '');
  setText($('count'), said);
  if (isWanted) {
    setText($('said'), said);
  }
  showMissing(meta.nodes.failed);
  showHead();
  showRows(data);
  showPages();
  // Its last clients have gone.
  if (!data.length && total && pageNumber() > pagesOf(total)) {
    goTo(pagesOf(total));
  }
}

export function showMissing(failed) {
  $('banner').hidden = !failed.length;
  setText($('banner'), failed.length ? `Clients are missing of ${inWords(failed)}.` : '');
}

function showHead() {
  fill($('head'), columns().map((field) => {
    const isSorted = field === sort();
    const arrow = isSorted ? (order() === 'asc' ? ' ▲' : ' ▼') : '';
    const head = element('th', { scope: 'col', className: COLUMNS[field].kind, dataset: { key: field } },
      element('button', { type: 'button', dataset: { sort: field } }, COLUMNS[field].title + arrow));
    if (isSorted) {
      head.ariaSort = order() === 'asc' ? 'ascending' : 'descending';
    }
    return head;
  }));
}

$('head').addEventListener('click', ({ target }) => {
  const field = target.dataset.sort;
  if (field) {
    const isDown = sort() === field ? order() === 'asc' : Boolean(COLUMNS[field].isLive);
    change({ _sort: field, _order: isDown ? 'desc' : 'asc' });
  }
});

function showRows(data) {
  if (!data.length) {
    const cell = element('td', { colSpan: columns().length, className: 'none' }, 'No client here.');
    fill($('rows'), [element('tr', {}, cell)]);
    return;
  }
  // A client may be on several nodes, and twice on one.
  const seen = new Map();
  fill($('rows'), data.map((client) => {
    const name = JSON.stringify([client.clientid, client.node]);
    seen.set(name, (seen.get(name) ?? 0) + 1);
    return row(client, `${seen.get(name)} ${name}`);
  }));
}

function row(client, key) {
  return element('tr', { dataset: { key } }, ...columns().map((field) => {
    const value = client[field];
    const text = shown(field, value);
    const { kind } = COLUMNS[field];
    const cell = { className: `${kind}${isNone(field, value) ? ' none' : ''}`, dataset: { key: field } };
    if (field === 'clientid') {
      return element('td', cell, element('button', { type: 'button', className: 'link', dataset: { clientid: value } }, text || '""'));
    }
    return element('td', cell, kind === 'state' ? element('span', { className: `state ${value ? 'connected' : 'idle'}` }, text) : text);
  }));
}

// ---- Pages

function showPages() {
  const [page, last] = [pageNumber(), pagesOf(total)];
  // What is being typed there stays.
  if (document.activeElement !== $('page')) {
    $('page').value = page;
  }
  setText($('pages'), `of ${count(last)}${last * limit() < total ? ` (the first ${count(last * limit())} by ${COLUMNS[sort()].title})` : ''}`);
  const ends = { first: page <= 1, previous: page <= 1, next: page >= last, last: page >= last };
  for (const button of document.querySelectorAll('[data-page]')) {
    if (ends[button.dataset.page] && document.activeElement === button) {
      $('page').focus();
    }
    button.disabled = ends[button.dataset.page];
  }
}

function goTo(page) {
  const to = Math.min(Math.max(1, Math.trunc(page) || 1), pagesOf(total));
  $('page').value = to;
  if (to !== pageNumber()) {
    change({ _page: to === 1 ? null : String(to) }, { keepPage: true });
  }
}

$('limit').addEventListener('change', () => change({ _limit: $('limit').value }));
$('page').addEventListener('change', () => goTo(Number($('page').value)));
document.querySelector('nav').addEventListener('click', ({ target }) => {
  const page = pageNumber();
  const to = { first: 1, previous: page - 1, next: page + 1, last: pagesOf(total) }[target.dataset.page];
  if (to) {
    goTo(to);
  }
});

// ---- Columns

for (const [group, fields] of GROUPS) {
  const boxes = fields.map((field) => element('label', {}, element('input', { type: 'checkbox', value: field }), COLUMNS[field].title));
  $('column-choice').append(element('fieldset', {}, element('legend', {}, group), ...boxes));
}
$('column-choice').addEventListener('change', () => {
  const chosen = [...$('column-choice').querySelectorAll(':checked')].map((box) => box.value);
  const isDefault = !chosen.length || (chosen.length === DEFAULT.length && chosen.every((field) => DEFAULT.includes(field)));
  // Those that are chosen by default keep their order.
  const rank = (field) => (DEFAULT.includes(field) ? DEFAULT.indexOf(field) : DEFAULT.length);
  chosen.sort((one, other) => rank(one) - rank(other));
  change({ columns: isDefault ? null : chosen.join(',') }, { keepPage: true });
});

onLogout(() => {
  for (const id of ['rows', 'head']) {
    $(id).replaceChildren();
  }
  for (const id of ['count', 'said', 'list-error']) {
    setText($(id), '');
  }
  showMissing([]);
});
