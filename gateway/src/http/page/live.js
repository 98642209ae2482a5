// When the cluster is asked: at once if somebody has asked for something else, soon after something has happened, and every few
// seconds in any case; never while the page is not seen.
//
// One question runs at a time. What happens meanwhile is asked for after it, and does not break it off: where answers take
// longer than events are apart there would never be one. Only what somebody does breaks it off, as it is about something else then.

import { events } from './api.js';
import { $ } from './dom.js';
import { onLogout, role } from './session.js';

const REFRESH_MS = 5000;
const EVENT_MS = 1000;

let load = null;
let running = null;
let isStale = false;
let timer = null;
let isSoon = false;
let following = null;

// Says how the cluster is asked and shown; `load` takes the signal that breaks it off, and whether somebody waits for it.
export function loadBy(how) {
  load = how;
}

const isWatched = () => role !== null && !document.hidden && $('live').checked;

// Asks now, for somebody who waits for it.
export function refresh() {
  running?.abort();
  run(true);
}

// Asks now, and watches from now on.
export function begin() {
  refresh();
  watch();
}

async function run(isWanted) {
  if (role === null) {
    return;
  }
  clearTimeout(timer);
  isSoon = false;
  isStale = false;
  const mine = new AbortController();
  running = mine;
  await load(mine.signal, isWanted);
  if (running === mine) {
    running = null;
    schedule(isStale ? EVENT_MS : REFRESH_MS);
  }
}

function schedule(milliseconds) {
  clearTimeout(timer);
  if (isWatched()) {
    timer = setTimeout(run, milliseconds, false);
  }
}

// Something has happened.
function happened() {
  if (running) {
    isStale = true;
  } else if (!isSoon) {
    isSoon = true;
    schedule(EVENT_MS);
  }
}

// Follows what happens. Without events, as where too many follow already, there is the timer.
async function follow() {
  following = new AbortController();
  const { signal } = following;
  while (!signal.aborted) {
    try {
      for await (const { event } of events(signal)) {
        if (event !== 'alive' && event !== 'ready') {
          happened();
        }
      }
    } catch {
      // It is tried again; that nodes or the gateway do not answer is said by the list.
    }
    await new Promise((resolve) => setTimeout(resolve, REFRESH_MS));
  }
}

// Begins or ends to watch, as the page is seen or not. A gateway has places for so many streams only.
function watch() {
  following?.abort();
  following = null;
  clearTimeout(timer);
  isSoon = false;
  if (!isWatched()) {
    return;
  }
  follow();
  if (running) {
    isStale = true;
  } else {
    run(false);
  }
}

$('live').addEventListener('change', watch);
document.addEventListener('visibilitychange', watch);
onLogout(() => {
  watch();
  running?.abort();
  running = null;
});
