// The page: what is asked for stands in the form and the address, what is shown is made of answers alone.
//
// dom.js and columns.js know how things are shown, api.js the gateway, session.js who is logged in, asked.js what is asked for,
// live.js when; nodes.js, list.js, client.js and bulk.js are the parts of the page, confirm.js the question before a kick.

import './bulk.js';
import './client.js';
import { get } from './api.js';
import { listQuery, onChange, readAddress } from './asked.js';
import { $, setText } from './dom.js';
import { showList, showMissing } from './list.js';
import { begin, loadBy, refresh } from './live.js';
import { showNodes } from './nodes.js';
import { fail, onLogin, role } from './session.js';

// When the list that is shown came.
let listed = '';

// Asks for the nodes and the list, and shows each as it comes.
loadBy(async (signal, isWanted) => {
  const nodes = get('/nodes', signal).then(showNodes).catch((error) => fail('nodes-error', error));
  const list = get(`/clients?${listQuery()}`, signal).then((answer) => {
    showList(answer, isWanted);
    listed = new Date();
  }).catch((error) => {
    fail('list-error', error, listed && ` (What stands here is of ${listed.toISOString().slice(11, 19)} UTC.)`);
    if (error.failed?.length && role !== null) {
      showMissing(error.failed);
    }
  });
  await Promise.all([nodes, list]);
});

onChange(refresh);
onLogin(() => {
  setText($('list-error'), '');
  listed = '';
  readAddress();
  begin();
});
window.addEventListener('hashchange', () => {
  if (role !== null) {
    readAddress();
    refresh();
  }
});

$('login').hidden = false;
$('login-form').elements.id.focus();
