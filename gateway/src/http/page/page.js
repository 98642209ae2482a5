// The page: what is asked for stands in the address (behind #), what is shown is made of answers alone.

import { ApiError, download, dryRun, events, forgetKey, get, kick, kickMany, useKey } from './api.js';
import { COLUMNS, DEFAULT, count, isNone, shown } from './columns.js';

const REFRESH_MS = 5000;
const EVENT_MS = 1000;
const TYPING_MS = 250;
const LIST_PARAMETERS = ['_page', '_limit', '_sort', '_order', 'columns'];
const TIMES = ['_gte_connected_at', '_lte_connected_at', '_gte_created_at', '_lte_created_at'];

const $ = (id) => document.getElementById(id);
const filters = $('filters');

let role = null;
let asked = new URLSearchParams();
let total = 0;
let asking = null;
let timer = null;
let typing = null;
let following = null;
let soon = null;

// An element with text and children, never with markup.
function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  const { dataset, ...others } = properties;
  Object.assign(made, others);
  Object.assign(made.dataset, dataset);
  made.append(...children);
  return made;
}

// Nodes that did not answer, and why.
function inWords(failed) {
  return failed.map(({ node, reason }) => `${node} (${reason})`).join(', ');
}

function fail(id, error) {
  if (error.name === 'AbortError') {
    return;
  }
  if (error instanceof ApiError && error.status === 401 && id !== 'login-error') {
    logOut(error.message);
    return;
  }
  $(id).textContent = error instanceof TypeError ? 'The gateway does not answer.' : error.message;
}

// ---- Log in and out

$('login-form').addEventListener('submit', async (event) => {
  event.preventDefault();
  const form = event.target;
  useKey(form.elements.id.value, form.elements.secret.value);
  $('login-error').textContent = '';
  try {
    const { data } = await get('/whoami');
    role = data.role;
    form.elements.secret.value = '';
    $('who').textContent = `${data.key} (${data.role})`;
    $('bulk').hidden = role !== 'operator';
    show(true);
    readAddress();
    await refresh();
    follow();
  } catch (error) {
    forgetKey();
    fail('login-error', error);
  }
});

$('logout').addEventListener('click', () => logOut(''));

function logOut(why) {
  forgetKey();
  role = null;
  clearTimeout(timer);
  clearTimeout(soon);
  asking?.abort();
  following?.abort();
  for (const id of ['rows', 'nodes', 'detail-body', 'confirm-body']) {
    $(id).replaceChildren();
  }
  for (const open of document.querySelectorAll('dialog[open]')) {
    open.close();
  }
  for (const id of ['totals', 'count']) {
    $(id).textContent = '';
  }
  show(false);
  $('login-error').textContent = why;
}

function show(isIn) {
  $('login').hidden = isIn;
  $('cluster').hidden = !isIn;
  $('session').hidden = !isIn;
  (isIn ? filters.elements._like_clientid : $('login-form').elements.id).focus();
}

// ---- What is asked for

function readAddress() {
  asked = new URLSearchParams(location.hash.slice(1));
  for (const field of filters.elements) {
    if (field.name) {
      const value = asked.get(field.name) ?? '';
      field.value = TIMES.includes(field.name) ? fromSeconds(value) : value;
      if (value && field.closest('#more')) {
        $('more').open = true;
      }
    }
  }
  $('limit').value = asked.get('_limit') ?? '50';
  for (const box of $('column-choice').querySelectorAll('input')) {
    box.checked = columns().includes(box.value);
  }
}

// Changes what is asked for; another list begins on its first page.
function change(changes, { keepPage = false } = {}) {
  for (const [name, value] of Object.entries(changes)) {
    value === '' || value === null ? asked.delete(name) : asked.set(name, value);
  }
  if (!keepPage) {
    asked.delete('_page');
  }
  history.replaceState(null, '', `#${asked}`);
  refresh();
}

function columns() {
  const chosen = (asked.get('columns') ?? '').split(',').filter((name) => name in COLUMNS);
  return chosen.length ? chosen : DEFAULT;
}

// The filters alone, as a query string.
function filterQuery() {
  const query = new URLSearchParams(asked);
  LIST_PARAMETERS.forEach((name) => query.delete(name));
  return query;
}

function fromSeconds(text) {
  return text ? new Date(Number(text) * 1000).toISOString().slice(0, 19) : '';
}

filters.addEventListener('input', (event) => {
  clearTimeout(typing);
  typing = setTimeout(() => {
    const { name, value } = event.target;
    change({ [name]: TIMES.includes(name) && value ? String(Date.parse(`${value}Z`) / 1000) : value });
  }, event.target.tagName === 'INPUT' ? TYPING_MS : 0);
});
filters.addEventListener('submit', (event) => event.preventDefault());
filters.addEventListener('reset', () => {
  for (const name of filterQuery().keys()) {
    asked.delete(name);
  }
  change({});
});
window.addEventListener('hashchange', () => {
  if (role) {
    readAddress();
    refresh();
  }
});
$('limit').addEventListener('change', () => change({ _limit: $('limit').value }));
$('page').addEventListener('change', () => goTo(Number($('page').value)));
document.querySelector('nav').addEventListener('click', ({ target }) => {
  const page = pageNumber();
  const to = { first: 1, previous: page - 1, next: page + 1, last: pages() }[target.dataset?.page];
  if (to) {
    goTo(to);
  }
});

const pageNumber = () => Number(asked.get('_page') ?? 1);
const limit = () => Number(asked.get('_limit') ?? 50);
const pages = () => Math.max(1, Math.ceil(total / limit()));

function goTo(page) {
  const to = Math.min(Math.max(1, Math.trunc(page) || 1), pages());
  change({ _page: to === 1 ? null : String(to) }, { keepPage: true });
}

// ---- Asking and showing

$('live').addEventListener('change', refresh);
document.addEventListener('visibilitychange', () => {
  if (!document.hidden && role) {
    refresh();
  }
});

// Asks again soon after something has happened, once for all that happens until then. Without events there is the timer.
async function follow() {
  following?.abort();
  following = new AbortController();
  const { signal } = following;
  while (role && !signal.aborted) {
    try {
      for await (const { event } of events(signal)) {
        if (event !== 'alive' && event !== 'ready' && !soon && $('live').checked && !document.hidden) {
          soon = setTimeout(() => {
            soon = null;
            refresh();
          }, EVENT_MS);
        }
      }
    } catch {
      // It is tried again; that nodes or the gateway do not answer is said by the list.
    }
    await new Promise((resolve) => setTimeout(resolve, REFRESH_MS));
  }
}

async function refresh() {
  if (!role) {
    return;
  }
  clearTimeout(timer);
  clearTimeout(soon);
  soon = null;
  asking?.abort();
  asking = new AbortController();
  const { signal } = asking;
  const query = new URLSearchParams(asked);
  query.delete('columns');
  query.set('_limit', limit());
  query.set('_fields', [...new Set(['clientid', 'node', ...columns()])].join(','));
  await Promise.all([
    get('/nodes', signal).then(showNodes).catch((error) => fail('list-error', error)),
    get(`/clients?${query}`, signal).then(showList).catch((error) => {
      fail('list-error', error);
      if (error.failed?.length) {
        showMissing(error.failed);
      }
    }),
  ]);
  if (role && !signal.aborted && $('live').checked && !document.hidden) {
    timer = setTimeout(refresh, REFRESH_MS);
  }
}

function showNodes({ data, meta }) {
  const silent = meta.count - meta.states.connected;
  $('totals').textContent = `${count(meta.connected)} connected of ${count(meta.clients)} clients on ${meta.count} nodes`
    + (silent ? `, as last told: ${silent} of them not answering` : '');
  $('nodes').replaceChildren(...data.map(tile));
  const choice = filters.elements._node;
  const names = data.map((node) => node.node).filter(Boolean).sort();
  const before = [...choice.options].slice(1).map((option) => option.value);
  if (names.join('\n') !== before.join('\n')) {
    const chosen = choice.value || asked.get('_node') || '';
    choice.replaceChildren(element('option', { value: '' }, 'all'), ...names.map((name) => element('option', {}, name)));
    choice.value = chosen;
  }
}

function tile(node) {
  const lines = [
    element('h3', {}, node.node ?? node.address),
    element('p', {}, element('span', { className: `state ${node.state}` }, node.state), ` since ${node.since}`),
    element('p', { className: 'figures' }, node.clients === null ? '–' : `${count(node.connected)} / ${count(node.clients)}`),
    element('p', {}, `connected / all clients${node.state === 'connected' ? '' : ' when it last answered'}`),
    element('p', {}, [node.broker, node.broker_version].filter(Boolean).join(' ') || 'broker unknown'),
  ];
  const wrong = node.state === 'connected' ? node.broker_error : node.last_error ?? node.broker_error;
  if (wrong) {
    lines.push(element('p', { className: 'error' }, wrong));
  }
  return element('li', {}, ...lines);
}

function showList({ data, meta }) {
  total = meta.count;
  $('list-error').textContent = '';
  $('count').textContent = `${meta.count_is ? 'at least ' : ''}${count(total)} ${total === 1 ? 'client' : 'clients'}`
    + (filterQuery().size ? (total === 1 ? ' matches' : ' match') : '');
  showMissing(meta.nodes.failed);
  showHead();
  $('rows').replaceChildren(...data.map(row));
  if (!data.length) {
    const cell = element('td', { colSpan: columns().length, className: 'none' }, 'No client here.');
    $('rows').append(element('tr', {}, cell));
  }
  const [page, last] = [pageNumber(), pages()];
  $('page').value = page;
  $('pages').textContent = `of ${count(last)}`;
  const ends = { first: page <= 1, previous: page <= 1, next: page >= last, last: page >= last };
  for (const button of document.querySelectorAll('[data-page]')) {
    button.disabled = ends[button.dataset.page];
  }
}

function showMissing(failed) {
  const banner = $('banner');
  banner.hidden = !failed.length;
  const text = failed.length
    ? `Clients are missing of ${inWords(failed)}.`
    : '';
  // Said again only if it has changed.
  if (banner.textContent !== text) {
    banner.textContent = text;
  }
}

function showHead() {
  const [sorted, order] = [asked.get('_sort') ?? 'clientid', asked.get('_order') ?? 'asc'];
  const made = `${columns()}|${sorted}|${order}`;
  if ($('head').dataset.made === made) {
    return;
  }
  $('head').dataset.made = made;
  const focused = document.activeElement?.dataset?.sort;
  $('head').replaceChildren(...columns().map((field) => {
    const isSorted = field === sorted;
    const arrow = isSorted ? (order === 'asc' ? ' ▲' : ' ▼') : '';
    const head = element('th', { scope: 'col', className: COLUMNS[field].kind },
      element('button', { type: 'button', dataset: { sort: field } }, COLUMNS[field].title + arrow));
    if (isSorted) {
      head.ariaSort = order === 'asc' ? 'ascending' : 'descending';
    }
    return head;
  }));
  $('head').querySelector(`[data-sort="${focused}"]`)?.focus();
}

$('head').addEventListener('click', ({ target }) => {
  const field = target.dataset?.sort;
  if (field) {
    const isSorted = (asked.get('_sort') ?? 'clientid') === field;
    const isDown = isSorted ? (asked.get('_order') ?? 'asc') === 'asc' : COLUMNS[field].kind === 'number';
    change({ _sort: field, _order: isDown ? 'desc' : 'asc' });
  }
});

function row(client) {
  return element('tr', {}, ...columns().map((field) => {
    const value = client[field];
    const text = shown(field, value);
    if (field === 'clientid') {
      return element('td', {}, element('button', { type: 'button', className: 'link', dataset: { clientid: value } }, text || '""'));
    }
    const className = `${COLUMNS[field].kind}${isNone(field, value) ? ' none' : ''}`;
    const state = () => element('span', { className: `state ${value ? 'connected' : 'idle'}` }, text);
    return element('td', { className }, field === 'connected' ? state() : text);
  }));
}

for (const [field, { title }] of Object.entries(COLUMNS)) {
  $('column-choice').append(element('label', {}, element('input', { type: 'checkbox', value: field }), title));
}
$('column-choice').addEventListener('change', () => {
  const chosen = [...$('column-choice').querySelectorAll(':checked')].map((box) => box.value);
  change({ columns: chosen.join(',') === DEFAULT.join(',') ? null : chosen.join(',') }, { keepPage: true });
});

// ---- One client

$('rows').addEventListener('click', ({ target }) => {
  if (target.dataset?.clientid !== undefined) {
    showClient(target.dataset.clientid);
  }
});

async function showClient(clientid) {
  $('detail-title').textContent = clientid;
  $('detail-error').textContent = '';
  $('detail-body').replaceChildren('…');
  $('kick').hidden = true;
  $('kick').dataset.clientid = clientid;
  if (!$('detail').open) {
    $('detail').showModal();
  }
  try {
    const { data, meta } = await get(`/clients/${encodeURIComponent(clientid)}`);
    const missing = inWords(meta.nodes.failed);
    $('detail-error').textContent = missing ? `It may be on ${missing} too, which did not answer.` : '';
    $('detail-body').replaceChildren(...data.map((client) => element('dl', {}, ...Object.keys(COLUMNS)
      .filter((field) => field in client)
      .flatMap((field) => [element('dt', {}, COLUMNS[field].title), element('dd', {}, shown(field, client[field]))]))));
    if (!data.length) {
      $('detail-body').replaceChildren('No node has it any more.');
    }
    $('kick').hidden = role !== 'operator' || !data.length;
  } catch (error) {
    $('detail-body').replaceChildren();
    fail('detail-error', error);
  }
}

$('kick').addEventListener('click', () => {
  const { clientid } = $('kick').dataset;
  confirm({
    title: `Kick ${clientid}?`,
    body: ['Its connection and its session end, on every node that has it. It may connect again at once.'],
    async go() {
      const { data } = await kick(clientid);
      return `Kicked on ${data.map(({ node }) => node).join(', ')}.`;
    },
    after: () => showClient(clientid),
  });
});

// ---- Many clients

// The filters as the body of a bulk kick.
function bulkBody() {
  const body = { filter: {} };
  for (const [name, value] of filterQuery()) {
    if (name === '_node') {
      body.nodes = [value];
    } else {
      body.filter[name] = value;
    }
  }
  return body;
}

$('bulk').addEventListener('click', async () => {
  const body = bulkBody();
  try {
    const { meta, data } = await dryRun(body);
    const missing = meta.nodes.failed.map(({ node }) => node).join(', ');
    const more = meta.count - data.length;
    confirm({
      title: `Kick ${count(meta.count)} ${meta.count === 1 ? 'client' : 'clients'}?`,
      number: meta.count,
      body: [
        missing ? `Those of ${missing} are not among them: no answer from there.` : '',
        element('ul', {}, ...meta.by_node.map(({ node, count: of }) => element('li', {}, `${node}: ${count(of)}`))),
        element('details', {}, element('summary', {}, 'Who'),
          element('ul', {}, ...data.map(({ clientid, node }) => element('li', {}, `${clientid} on ${node}`)),
            more > 0 ? `and ${count(more)} more` : '')),
      ],
      go: () => kickAll({ ...body, confirm: 'all', partial: Boolean(missing), max: meta.count }),
      after: refresh,
    });
  } catch (error) {
    fail('list-error', error);
  }
});

// Kicks them, and says how it ended. No more than were found before: `max` is their number.
async function kickAll(body) {
  let end = null;
  const bad = [];
  $('confirm-progress').hidden = false;
  await kickMany(body, (line) => {
    if (line.progress) {
      $('confirm-progress').max = line.progress.of || 1;
      $('confirm-progress').value = line.progress.done;
      $('confirm-result').textContent = `${count(line.progress.done)} of ${count(line.progress.of)}`;
    } else if (line.meta) {
      end = line.meta;
    } else if (line.outcome === 'failed' || line.outcome === 'unknown') {
      bad.push(element('li', {}, `${line.clientid}: ${line.outcome}, ${line.message ?? ''}`));
    }
  });
  $('confirm-progress').hidden = true;
  if (!end) {
    throw new Error('The answer broke off: some clients may have been kicked, see the record of kicks.');
  }
  $('confirm-body').replaceChildren(element('ul', {}, ...bad.slice(0, 100)));
  const said = Object.entries(end.outcomes).filter(([, of]) => of).map(([outcome, of]) => `${count(of)} ${outcome.replace('_', ' ')}`);
  return `${said.join(', ') || 'Nobody was there.'}${end.complete ? '' : '. Not all is done or known.'}`;
}

// ---- Dialogs

let confirmed = null;

function confirm({ title, body, number, go, after }) {
  confirmed = { number, go, after };
  $('confirm-title').textContent = title;
  $('confirm-body').replaceChildren(...body);
  $('confirm-type').hidden = number === undefined;
  $('confirm-number').value = '';
  $('confirm-result').textContent = '';
  $('confirm-error').textContent = '';
  $('confirm-progress').hidden = true;
  $('confirm-go').hidden = false;
  $('confirm-go').disabled = number !== undefined;
  $('confirm').showModal();
}

$('confirm-number').addEventListener('input', () => {
  $('confirm-go').disabled = confirmed.number === 0 || $('confirm-number').value.trim() !== String(confirmed.number);
});

$('confirm-form').addEventListener('submit', async (event) => {
  event.preventDefault();
  if ($('confirm-go').disabled || $('confirm-go').hidden) {
    return;
  }
  $('confirm-go').disabled = true;
  $('confirm-error').textContent = '';
  try {
    $('confirm-result').textContent = await confirmed.go();
    $('confirm-go').hidden = true;
    $('confirm-type').hidden = true;
  } catch (error) {
    fail('confirm-error', error);
  }
  confirmed.after();
});

for (const button of document.querySelectorAll('[data-close]')) {
  button.addEventListener('click', () => button.closest('dialog').close());
}

// ---- Downloads

for (const button of document.querySelectorAll('[data-download]')) {
  button.addEventListener('click', async () => {
    button.disabled = true;
    $('list-error').textContent = '';
    try {
      const query = filterQuery();
      for (const name of ['_sort', '_order']) {
        if (asked.has(name)) {
          query.set(name, asked.get(name));
        }
      }
      const end = await download(query.toString(), button.dataset.download);
      if (!end.complete) {
        const missing = inWords(end.nodes?.failed ?? []);
        $('list-error').textContent = `The file is not whole: ${missing || 'it broke off'}.`;
      }
    } catch (error) {
      fail('list-error', error instanceof TypeError ? new Error('The file is not whole: it broke off.') : error);
    } finally {
      button.disabled = false;
    }
  });
}

show(false);
