// The HTTP API as this page uses it. The key is kept here and nowhere else, from login to logout; when it is forgotten, all that
// was asked with it ends (an AbortError), so that nothing of one login comes late into another.

const base = document.querySelector('meta[name="base-path"]').content;
let key = null;
let session = new AbortController();

// An answer that is none, with the words of the gateway.
export class ApiError extends Error {
  constructor(status, body) {
    super(body?.message ?? `the gateway answered ${status}`);
    this.status = status;
    this.failed = body?.meta?.nodes?.failed ?? [];
  }
}

export function useKey(id, secret) {
  forgetKey();
  const bytes = new TextEncoder().encode(`${id}:${secret}`);
  key = btoa(String.fromCharCode(...bytes));
  session = new AbortController();
}

export function forgetKey() {
  key = null;
  session.abort();
}

// Asks, and throws an ApiError or, where nobody answers, a TypeError.
async function ask(path, options = {}) {
  const signal = options.signal ? AbortSignal.any([options.signal, session.signal]) : session.signal;
  signal.throwIfAborted();
  const headers = { ...options.headers, Authorization: `Basic ${key}` };
  const response = await fetch(base + path, { ...options, signal, headers, credentials: 'omit', cache: 'no-store' });
  if (!response.ok) {
    const body = await response.json().catch(() => null);
    signal.throwIfAborted();
    throw new ApiError(response.status, body);
  }
  return response;
}

export async function get(path, signal) {
  return (await ask(path, { signal })).json();
}

export async function kick(clientid) {
  return (await ask(`/clients/${encodeURIComponent(clientid)}`, { method: 'DELETE' })).json();
}

function post(body, signal) {
  const headers = { 'Content-Type': 'application/json' };
  return ask('/client_kicks', { method: 'POST', headers, body: JSON.stringify(body), signal });
}

export async function dryRun(body, signal) {
  return (await post({ ...body, dry_run: true }, signal)).json();
}

// Kicks many; each line of the answer is given to `take` as it comes.
export async function kickMany(body, take, signal) {
  for await (const line of lines(await post(body, signal))) {
    take(line);
  }
}

// What happens in the cluster, event by event, until the signal says to stop.
export async function* events(signal) {
  yield* lines(await ask('/client_events?_format=ndjson', { signal }));
}

async function* lines(response) {
  let rest = '';
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await reader.read();
    const parts = (rest + (value ?? '')).split('\n');
    rest = parts.pop();
    for (const part of parts) {
      yield JSON.parse(part);
    }
    if (done) {
      return;
    }
  }
}

// The bytes of an export, and whether they are all. Big ones go to a file as they come, where the browser can do that.
export async function download(query, format) {
  const name = `clients.${format}`;
  const { signal } = session;
  let file = null;
  if (window.showSaveFilePicker) {
    // Has to be asked before anything is waited for.
    file = await (await window.showSaveFilePicker({ suggestedName: name })).createWritable();
  }
  try {
    const response = await ask(`/client_export?${query}${query && '&'}_format=${format}`, { signal });
    const parts = [];
    let tail = '';
    const text = new TextDecoder();
    for await (const chunk of chunks(response)) {
      tail = (tail + text.decode(chunk, { stream: true })).slice(-65536);
      await (file ? file.write(chunk) : parts.push(chunk));
    }
    signal.throwIfAborted();
    await file?.close();
    file = null;
    if (parts.length) {
      const link = document.createElement('a');
      link.href = URL.createObjectURL(new Blob(parts));
      link.download = name;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    }
    return format === 'ndjson' ? endOf(tail) : { complete: true };
  } finally {
    await file?.abort?.();
  }
}

async function* chunks(response) {
  const reader = response.body.getReader();
  for (let next = await reader.read(); !next.done; next = await reader.read()) {
    yield next.value;
  }
}

// What the last line says. Without one the stream broke off.
function endOf(tail) {
  const last = tail.trimEnd().split('\n').pop();
  try {
    return JSON.parse(last).meta ?? { complete: false };
  } catch {
    return { complete: false };
  }
}
