// What is asked for: it stands in the form and in the address (behind #), and both say the same.

import { COLUMNS, DEFAULT } from './columns.js';
import { $ } from './dom.js';
import { notice } from './session.js';

const TYPING_MS = 250;
const LIST_PARAMETERS = ['_page', '_limit', '_sort', '_order', 'columns'];
// The last second that a field for a time can show: the end of the year 9999.
const LAST_SECOND = 253402300799;
// Sorts by live figures go so far.
const MOST_RANKED = 10000;

const form = $('filters');
const fields = [...form.elements].filter((field) => field.name);
const changed = [];
let asked = new URLSearchParams();
let typing = null;

// Calls back when something else is asked for.
export const onChange = (call) => changed.push(call);

const isTime = (field) => field.type === 'datetime-local';
const asTime = (seconds) => new Date(Number(seconds) * 1000).toISOString().slice(0, 19);

// ---- The address

// Takes over what the address says. What makes no sense is left out, and said.
export function readAddress() {
  clearTimeout(typing);
  typing = null;
  const given = new URLSearchParams(location.hash.slice(1));
  const wrong = [];
  asked = new URLSearchParams();
  for (const [name, value] of given) {
    const field = fields.find((one) => one.name === name);
    const reason = asked.has(name) ? 'stands there already' : field ? refused(field, value) : refusedOfList(name, value);
    if (reason) {
      wrong.push(`${name}=${value} ${reason}`);
    } else if (value) {
      asked.set(name, value);
    }
  }
  for (const field of fields) {
    const value = asked.get(field.name) ?? '';
    // Nodes become options once they are known.
    if (field.name === '_node' && value && ![...field.options].some((option) => option.value === value)) {
      field.append(new Option(value));
    }
    field.value = isTime(field) && value ? asTime(value) : value;
    if (value && field.closest('#more')) {
      $('more').open = true;
    }
  }
  $('limit').value = String(limit());
  for (const box of $('column-choice').querySelectorAll('input')) {
    box.checked = columns().includes(box.value);
  }
  if (wrong.length) {
    writeAddress();
    notice(`The address asks for what cannot be, which is left out: ${wrong.join('; ')}.`);
  }
}

// Why a value cannot be one of a field; nothing if it can.
function refused(field, value) {
  if (isTime(field)) {
    return /^\d{1,12}$/.test(value) && Number(value) <= LAST_SECOND ? '' : 'is no time in seconds';
  }
  const isFixed = field.tagName === 'SELECT' && field.name !== '_node';
  return isFixed && ![...field.options].some((option) => option.value === value) ? 'is none of the choices' : '';
}

function refusedOfList(name, value) {
  const isRight = {
    _page: () => /^[1-9]\d{0,9}$/.test(value),
    _limit: () => [...$('limit').options].some((option) => option.value === value),
    _sort: () => Object.hasOwn(COLUMNS, value),
    _order: () => ['asc', 'desc'].includes(value),
    columns: () => value.split(',').every((field) => Object.hasOwn(COLUMNS, field)),
  }[name];
  if (!isRight) {
    return 'is no filter';
  }
  return isRight() ? '' : 'cannot be';
}

function writeAddress() {
  history.replaceState(null, '', `#${asked}`);
}

// ---- The form

// Takes all fields at once: a change of one must not be lost to that of another.
function readForm() {
  for (const field of fields) {
    const value = isTime(field) && field.value ? String(Date.parse(`${field.value}Z`) / 1000) : field.value;
    value ? asked.set(field.name, value) : asked.delete(field.name);
  }
}

// What is typed counts from now on. False if a field is not whole, which its own words then say.
export function settle() {
  if (typing !== null) {
    take();
  }
  const isWhole = form.checkValidity();
  if (!isWhole) {
    $('more').open = true;
    form.reportValidity();
  }
  return isWhole;
}

function take() {
  clearTimeout(typing);
  typing = null;
  const before = filterQuery().toString();
  readForm();
  if (filterQuery().toString() !== before) {
    change({});
  }
}

form.addEventListener('input', (event) => {
  clearTimeout(typing);
  if (event.target.tagName === 'INPUT') {
    typing = setTimeout(take, TYPING_MS);
  } else {
    take();
  }
});
form.addEventListener('submit', (event) => {
  event.preventDefault();
  settle();
});
// A form is reset only after it has said so.
form.addEventListener('reset', () => setTimeout(take));

// Asks for the clients of one node.
export function choose(node) {
  form.elements._node.value = node;
  take();
}

// Changes what is asked for beside the filters; another list begins on its first page.
export function change(changes, { keepPage = false } = {}) {
  for (const [name, value] of Object.entries(changes)) {
    value === null ? asked.delete(name) : asked.set(name, value);
  }
  if (!keepPage) {
    asked.delete('_page');
  }
  writeAddress();
  changed.forEach((call) => call());
}

// ---- What is asked for, by its parts

// The filters alone, as a query string.
export function filterQuery() {
  const query = new URLSearchParams(asked);
  LIST_PARAMETERS.forEach((name) => query.delete(name));
  return query;
}

// The filters as the form calls them: [label, value].
export function filtersInWords() {
  return fields.filter((field) => asked.has(field.name))
    .map((field) => [field.closest('label').firstChild.data.trim(), field.selectedOptions?.[0].text ?? field.value]);
}

// The query of the list that is shown.
export function listQuery() {
  const query = filterQuery();
  query.set('_sort', sort());
  query.set('_order', order());
  query.set('_page', pageNumber());
  query.set('_limit', limit());
  query.set('_fields', [...new Set(['clientid', 'node', ...columns()])].join(','));
  return query;
}

// The query of a file of all clients of the list. Those have no order by figures that change meanwhile.
export function exportQuery() {
  const query = filterQuery();
  if (!COLUMNS[sort()].isLive) {
    query.set('_sort', sort());
    query.set('_order', order());
  }
  return query;
}

export const sort = () => asked.get('_sort') ?? 'clientid';
export const order = () => asked.get('_order') ?? 'asc';
export const pageNumber = () => Number(asked.get('_page') ?? 1);
export const limit = () => Number(asked.get('_limit') ?? 50);

// How many pages a list of so many clients has in the order that is asked for.
export function pagesOf(total) {
  const most = COLUMNS[sort()].isLive ? MOST_RANKED / limit() : Infinity;
  return Math.max(1, Math.min(Math.ceil(total / limit()), most));
}

export function columns() {
  const chosen = asked.get('columns');
  return chosen ? [...new Set(chosen.split(','))] : DEFAULT;
}
