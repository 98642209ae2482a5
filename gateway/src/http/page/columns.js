// The fields of a row: what stands above a column, which others it belongs to, and how a value is shown.

const [CLIENT, CONNECTION, SESSION, QUEUES, TRAFFIC, PROCESS] = ['Client', 'Connection', 'Session', 'Queues', 'Traffic', 'Process'];

const text = { kind: 'text' };
// Text that is short and reads badly in pieces.
const word = { kind: 'text word' };
const number = { kind: 'number' };
const time = { kind: 'time' };
const flag = { kind: 'flag' };
// What changes with every packet. Lists are sorted by it for the first clients only, exports not at all.
const live = { kind: 'number', isLive: true };

export const COLUMNS = {
  clientid: { title: 'Client id', group: CLIENT, ...text },
  username: { title: 'User name', group: CLIENT, ...text },
  node: { title: 'Node', group: CLIENT, ...word },
  zone: { title: 'Zone', group: CLIENT, ...text },
  mountpoint: { title: 'Mountpoint', group: CLIENT, ...text },
  is_bridge: { title: 'Bridge', group: CLIENT, ...flag },
  connected: { title: 'State', group: CONNECTION, kind: 'state' },
  ip_address: { title: 'Address', group: CONNECTION, ...word },
  port: { title: 'Port', group: CONNECTION, kind: 'number', isPlain: true },
  proto_name: { title: 'Protocol', group: CONNECTION, ...text },
  proto_ver: { title: 'Version', group: CONNECTION, ...number },
  keepalive: { title: 'Keepalive (s)', group: CONNECTION, ...number },
  connected_at: { title: 'Connected at', group: CONNECTION, ...time },
  disconnected_at: { title: 'Disconnected at', group: CONNECTION, ...time },
  created_at: { title: 'Session since', group: SESSION, ...time },
  clean_start: { title: 'Clean start', group: SESSION, ...flag },
  expiry_interval: { title: 'Session expiry (s)', group: SESSION, ...number },
  subscriptions_cnt: { title: 'Subscriptions', group: SESSION, ...live },
  max_subscriptions: { title: 'Most subscriptions', group: SESSION, ...live },
  mqueue_len: { title: 'Queued', group: QUEUES, ...live },
  max_mqueue: { title: 'Most queued', group: QUEUES, ...live },
  mqueue_dropped: { title: 'Dropped', group: QUEUES, ...live },
  inflight: { title: 'Inflight', group: QUEUES, ...live },
  max_inflight: { title: 'Most inflight', group: QUEUES, ...live },
  awaiting_rel: { title: 'Awaiting release', group: QUEUES, ...live },
  max_awaiting_rel: { title: 'Most awaiting release', group: QUEUES, ...live },
  recv_msg: { title: 'Messages in', group: TRAFFIC, ...live },
  send_msg: { title: 'Messages out', group: TRAFFIC, ...live },
  recv_pkt: { title: 'Packets in', group: TRAFFIC, ...live },
  send_pkt: { title: 'Packets out', group: TRAFFIC, ...live },
  recv_oct: { title: 'Bytes in', group: TRAFFIC, ...live },
  send_oct: { title: 'Bytes out', group: TRAFFIC, ...live },
  recv_cnt: { title: 'Segments in', group: TRAFFIC, ...live },
  send_cnt: { title: 'Segments out', group: TRAFFIC, ...live },
  mailbox_len: { title: 'Mailbox', group: PROCESS, ...live },
  heap_size: { title: 'Heap', group: PROCESS, ...live },
  reductions: { title: 'Reductions', group: PROCESS, ...live },
};

export const DEFAULT = ['clientid', 'username', 'node', 'connected', 'ip_address', 'connected_at', 'mqueue_len', 'recv_msg', 'send_msg'];

// The fields by their groups: [name, fields].
export const GROUPS = Object.entries(Object.groupBy(Object.keys(COLUMNS), (field) => COLUMNS[field].group));

const numbers = new Intl.NumberFormat('en');

export function count(value) {
  return numbers.format(value);
}

// A number of things, by their name: "1 client", "2,000 clients".
export function counted(value, thing) {
  return `${count(value)} ${thing}${value === 1 ? '' : 's'}`;
}

// Whether there is nothing: null is what the node's broker cannot tell, "undefined" what the client did not give.
export function isNone(field, value) {
  return value === null || value === undefined || (value === 'undefined' && ['username', 'mountpoint'].includes(field));
}

// A value as text.
export function shown(field, value) {
  if (isNone(field, value)) {
    return '–';
  }
  const { kind, isPlain } = COLUMNS[field];
  switch (kind) {
    case 'number': return isPlain ? String(value) : count(value);
    case 'flag': return value ? 'yes' : 'no';
    case 'state': return value ? 'connected' : 'not connected';
    default: return String(value);
  }
}

// Nodes that did not answer, and why.
export function inWords(failed) {
  return failed.map(({ node, reason }) => `${node} (${reason})`).join(', ');
}
