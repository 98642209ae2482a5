// The nodes that the gateway expects: a tile each, the totals, and the choice of a node.

import { choose } from './asked.js';
import { count, counted } from './columns.js';
import { $, element, fill, setText } from './dom.js';
import { onLogout } from './session.js';

export function showNodes({ data, meta }) {
  setText($('nodes-error'), '');
  const silent = meta.count - meta.states.connected;
  setText($('totals'), `${counted(meta.clients, 'client')}, ${count(meta.connected)} connected, on ${counted(meta.count, 'node')}`);
  const states = Object.entries(meta.states).filter(([, of]) => of).map(([state, of]) => `${count(of)} ${state}`);
  setText($('nodes-states'), states.join(', ') + (silent ? '; figures of those that do not answer are the last known' : ''));
  fill($('nodes'), data.map(tile));
  showChoice(data.map((node) => node.node).filter(Boolean).sort());
}

function tile(node) {
  const isUp = node.state === 'connected';
  const name = node.node
    ? element('button', { type: 'button', className: 'link', title: 'Show the clients of this node', dataset: { node: node.node } }, node.node)
    : node.address;
  const parts = [
    element('h3', {}, name),
    element('span', { className: `state ${node.state}` }, node.state),
    element('p', { className: 'figures' }, ...figures(node)),
    element('p', {}, [node.broker, node.broker_version].filter(Boolean).join(' ') || 'broker unknown'),
    element('p', {}, `since ${node.since}${node.restarts ? `, ${counted(node.restarts, 'restart')}` : ''}`),
  ];
  const wrong = isUp ? node.broker_error : node.last_error ?? node.broker_error;
  if (wrong) {
    parts.push(element('p', { className: 'error' }, wrong));
  }
  return element('li', { className: isUp ? '' : 'silent', dataset: { key: node.address } }, ...parts);
}

function figures(node) {
  if (node.clients === null) {
    return ['clients unknown'];
  }
  const figure = (value, thing) => element('span', {}, element('strong', {}, count(value)), ` ${thing}`);
  return [figure(node.clients, node.clients === 1 ? 'client' : 'clients'), figure(node.connected, 'connected')];
}

$('nodes').addEventListener('click', ({ target }) => {
  if (target.dataset.node) {
    choose(target.dataset.node);
    $('clients').focus();
  }
});

// Options are changed only if others are needed: a list that is open must not close.
function showChoice(names) {
  const choice = $('filters').elements._node;
  const chosen = choice.value;
  const wanted = chosen && !names.includes(chosen) ? [...names, chosen] : names;
  if ([...choice.options].slice(1).map((option) => option.value).join('\n') !== wanted.join('\n')) {
    choice.replaceChildren(new Option('all', ''), ...wanted.map((name) => new Option(name)));
    choice.value = chosen;
  }
}

onLogout(() => {
  $('nodes').replaceChildren();
  $('filters').elements._node.replaceChildren(new Option('all', ''));
  for (const id of ['totals', 'nodes-states', 'nodes-error']) {
    setText($(id), '');
  }
});
