// Who is logged in, from the login to the logout, and what went wrong in words.

import { ApiError, forgetKey, get, useKey } from './api.js';
import { $, setText } from './dom.js';

// The role of the key; null while nobody is logged in.
export let role = null;

const beginnings = [];
const ends = [];

// Calls back after every login.
export const onLogin = (begin) => beginnings.push(begin);

// Calls back at every logout: what was shown is nobody's any more.
export const onLogout = (end) => ends.push(end);

$('login-form').addEventListener('submit', async (event) => {
  event.preventDefault();
  const { id, secret } = event.target.elements;
  useKey(id.value, secret.value);
  setText($('login-error'), '');
  try {
    const { data } = await get('/whoami');
    role = data.role;
    secret.value = '';
    setText($('who'), `${data.key} (${data.role})`);
    show(true);
    beginnings.forEach((begin) => begin());
  } catch (error) {
    // An attempt that another one has overtaken says nothing.
    if (error.name !== 'AbortError') {
      logOut(words(error));
    }
  }
});

$('logout').addEventListener('click', () => logOut(''));

export function logOut(why) {
  forgetKey();
  role = null;
  for (const open of document.querySelectorAll('dialog[open]')) {
    open.close();
  }
  setText($('who'), '');
  ends.forEach((end) => end());
  show(false);
  setText($('login-error'), why);
}

function show(isIn) {
  $('login').hidden = isIn;
  $('cluster').hidden = !isIn;
  $('session').hidden = !isIn;
  (isIn ? $('filters').elements._like_clientid : $('login-form').elements.id).focus();
}

function words(error) {
  return error instanceof TypeError ? 'The gateway does not answer.' : error.message;
}

// Says at a place what went wrong, and more. What was given up says nothing; a key that counts no more ends the session.
export function fail(place, error, more = '') {
  if (error.name === 'AbortError') {
    return;
  }
  if (error instanceof ApiError && error.status === 401) {
    logOut(error.message);
    return;
  }
  setText($(place), words(error) + more);
}

// ---- What came of actions. It stays until the next action or until it is read and closed, whatever the list does.

export function notice(text) {
  setText($('notice-text'), text);
  $('notice').hidden = !text;
}

// As `fail`, there, and of whom if that is not plain.
export function failNotice(error, whom = '') {
  if (error.name !== 'AbortError') {
    fail('notice-text', error);
    $('notice-text').prepend(whom && `${whom}: `);
    $('notice').hidden = role === null;
  }
}

$('notice-close').addEventListener('click', () => {
  notice('');
  $('table').focus();
});
onLogout(() => notice(''));
