// One client: all that is known of it, and its kick.

import { get, kick } from './api.js';
import { COLUMNS, GROUPS, inWords, isNone, shown } from './columns.js';
import { ask } from './confirm.js';
import { $, element, setText } from './dom.js';
import { refresh } from './live.js';
import { fail, failNotice, notice, onLogout, role } from './session.js';

// The client that the dialog is about; what comes late of another is not shown.
let current = null;

$('rows').addEventListener('click', ({ target }) => {
  if (target.dataset.clientid !== undefined) {
    show(target.dataset.clientid);
  }
});

async function show(clientid) {
  const mine = { clientid };
  current = mine;
  setText($('detail-title'), clientid || '""');
  setText($('detail-error'), '');
  $('detail-body').replaceChildren('…');
  $('kick').hidden = true;
  if (!$('detail').open) {
    $('detail').showModal();
  }
  try {
    const { data, meta } = await get(`/clients/${encodeURIComponent(clientid)}`);
    if (current === mine) {
      showSessions(data, meta);
      $('kick').hidden = role !== 'operator' || !data.length;
    }
  } catch (error) {
    if (current === mine) {
      $('detail-body').replaceChildren();
      fail('detail-error', error);
    }
  }
}

function showSessions(data, meta) {
  const missing = inWords(meta.nodes.failed);
  setText($('detail-error'), missing && `It may be on ${missing} too, which did not answer.`);
  $('detail-body').replaceChildren(...(data.length ? data.map(session) : ['No node has it any more.']));
}

function session(client) {
  const about = element('section', {});
  for (const [group, fields] of GROUPS) {
    const known = fields.filter((field) => field in client);
    // What the node's broker can tell nothing of is not worth its lines.
    if (known.some((field) => !isNone(field, client[field]))) {
      const lines = known.flatMap((field) => [
        element('dt', {}, COLUMNS[field].title),
        element('dd', { className: isNone(field, client[field]) ? 'none' : '' }, shown(field, client[field])),
      ]);
      about.append(element('div', {}, element('h3', {}, group), element('dl', {}, ...lines)));
    }
  }
  return about;
}

$('detail').addEventListener('close', () => {
  if (!$('detail').open) {
    current = null;
  }
});

onLogout(() => {
  current = null;
  $('detail-body').replaceChildren();
});

$('kick').addEventListener('click', () => {
  const mine = current;
  if (mine === null) {
    return;
  }
  const { clientid } = mine;
  const question = ask({
    title: `Kick ${clientid}?`,
    body: ['Its connection and its session end, on every node that has it. It may connect again at once.'],
    async go() {
      const { data } = await kick(clientid);
      return `Kicked on ${data.map(({ node }) => node).join(', ')}.`;
    },
    // Whoever has closed the question reads it above the list.
    late: (result) => notice(`${clientid}: ${result}`),
    lateError: (error) => failNotice(error, clientid),
    after() {
      refresh();
      if (current === mine) {
        show(clientid);
      }
    },
  });
  question.pose();
});
