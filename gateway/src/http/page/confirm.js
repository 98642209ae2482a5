// The question before a kick. One is open at a time; what comes late of one that was closed is never shown in the next.

import { $, setText } from './dom.js';
import { fail, onLogout } from './session.js';

let current = null;

// Opens a question.
//
// `go` does it, with the signal of the question being closed, and says how it ended; `after` follows in any case. How it ended is
// handed to `late` or `lateError` instead if the question has been closed meanwhile. It can be answered once it is posed: if a
// number is given, by typing that.
export function ask({ title, body, go, late, lateError, after }) {
  const stop = new AbortController();
  const mine = {
    signal: stop.signal,
    isOpen: () => current === mine,
    close: () => stop.abort(),
    go, late, lateError, after,
    number: undefined,
    pose({ title: asked = title, body: told = body, number } = {}) {
      mine.number = number;
      setText($('confirm-title'), asked);
      $('confirm-body').replaceChildren(...told);
      $('confirm-type').hidden = number === undefined;
      $('confirm-go').hidden = false;
      $('confirm-go').disabled = number !== undefined;
      if (number !== undefined) {
        $('confirm-number').focus();
      }
    },
  };
  current = mine;
  setText($('confirm-title'), title);
  $('confirm-body').replaceChildren(...body);
  $('confirm-number').value = '';
  setText($('confirm-result'), '');
  setText($('confirm-error'), '');
  setText($('confirm-close'), 'Cancel');
  for (const id of ['confirm-type', 'confirm-progress', 'confirm-go']) {
    $(id).hidden = true;
  }
  $('confirm').showModal();
  return mine;
}

$('confirm').addEventListener('close', () => {
  // Told a little later: another may be open by now.
  if (!$('confirm').open) {
    current?.close();
    current = null;
  }
});

$('confirm-number').addEventListener('input', () => {
  if (current?.number !== undefined) {
    $('confirm-go').disabled = current.number === 0 || $('confirm-number').value.trim() !== String(current.number);
  }
});

$('confirm-form').addEventListener('submit', async (event) => {
  event.preventDefault();
  const mine = current;
  if (mine === null || $('confirm-go').disabled || $('confirm-go').hidden) {
    return;
  }
  $('confirm-go').hidden = true;
  $('confirm-type').hidden = true;
  setText($('confirm-error'), '');
  setText($('confirm-close'), 'Close');
  try {
    const result = await mine.go(mine.signal);
    mine.isOpen() ? setText($('confirm-result'), result) : mine.late(result);
  } catch (error) {
    mine.isOpen() ? fail('confirm-error', error) : mine.lateError(error);
  }
  if (mine.isOpen()) {
    setText($('confirm-close'), 'Close');
    $('confirm-close').focus();
  }
  mine.after();
});

onLogout(() => {
  current?.close();
  current = null;
  $('confirm-body').replaceChildren();
});

for (const button of document.querySelectorAll('[data-close]')) {
  button.addEventListener('click', () => button.closest('dialog').close());
}
