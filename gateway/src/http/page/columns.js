// The fields of a row: what stands above a column, and how a value is shown.

const text = { kind: 'text' };
const number = { kind: 'number' };
const time = { kind: 'time' };
const flag = { kind: 'flag' };

export const COLUMNS = {
  clientid: { title: 'Client id', ...text },
  username: { title: 'User name', ...text },
  node: { title: 'Node', ...text },
  connected: { title: 'State', kind: 'state' },
  ip_address: { title: 'Address', ...text },
  port: { title: 'Port', ...number },
  proto_name: { title: 'Protocol', ...text },
  proto_ver: { title: 'Version', ...number },
  keepalive: { title: 'Keepalive', ...number },
  clean_start: { title: 'Clean start', ...flag },
  expiry_interval: { title: 'Session expiry', ...number },
  connected_at: { title: 'Connected at', ...time },
  disconnected_at: { title: 'Disconnected at', ...time },
  created_at: { title: 'Session since', ...time },
  zone: { title: 'Zone', ...text },
  mountpoint: { title: 'Mountpoint', ...text },
  is_bridge: { title: 'Bridge', ...flag },
  subscriptions_cnt: { title: 'Subscriptions', ...number },
  max_subscriptions: { title: 'Most subscriptions', ...number },
  inflight: { title: 'Inflight', ...number },
  max_inflight: { title: 'Most inflight', ...number },
  mqueue_len: { title: 'Queued', ...number },
  max_mqueue: { title: 'Most queued', ...number },
  mqueue_dropped: { title: 'Dropped', ...number },
  awaiting_rel: { title: 'Awaiting release', ...number },
  max_awaiting_rel: { title: 'Most awaiting release', ...number },
  recv_oct: { title: 'Bytes in', ...number },
  recv_cnt: { title: 'Segments in', ...number },
  recv_pkt: { title: 'Packets in', ...number },
  recv_msg: { title: 'Messages in', ...number },
  send_oct: { title: 'Bytes out', ...number },
  send_cnt: { title: 'Segments out', ...number },
  send_pkt: { title: 'Packets out', ...number },
  send_msg: { title: 'Messages out', ...number },
  mailbox_len: { title: 'Mailbox', ...number },
  heap_size: { title: 'Heap', ...number },
  reductions: { title: 'Reductions', ...number },
};

export const DEFAULT = ['clientid', 'username', 'node', 'connected', 'ip_address', 'proto_ver', 'connected_at', 'mqueue_len', 'recv_msg', 'send_msg'];

const numbers = new Intl.NumberFormat('en');

export function count(value) {
  return numbers.format(value);
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
  switch (COLUMNS[field].kind) {
    case 'number': return field === 'port' ? String(value) : count(value);
    case 'flag': return value ? 'yes' : 'no';
    case 'state': return value ? 'connected' : 'not connected';
    default: return String(value);
  }
}
