// What is done to all clients that match: kick them, put them into a file.

import { download, dryRun, kickMany } from './api.js';
import { exportQuery, filterQuery, filtersInWords, settle } from './asked.js';
import { count, counted, inWords } from './columns.js';
import { ask } from './confirm.js';
import { $, element, setText } from './dom.js';
import { refresh } from './live.js';
import { fail, failNotice, notice, onLogin, role } from './session.js';

onLogin(() => {
  $('bulk').hidden = role !== 'operator';
});

// ---- Kicks

// The filters as the body of a bulk kick.
function bulkBody() {
  const body = { filter: {} };
  for (const [name, value] of filterQuery()) {
    if (name === '_node') {
      body.nodes = [value];
    } else {
      body.filter[name] = value;
    }
  }
  return body;
}

// What belongs to what, a line each.
function lines(pairs) {
  return element('dl', {}, ...pairs.flatMap(([name, value]) => [element('dt', {}, name), element('dd', {}, element('strong', {}, value))]));
}

// Whom it is about, in the words of the form.
function whom() {
  const words = filtersInWords();
  return words.length
    ? lines(words)
    : element('p', {}, 'No filter is set: these are ', element('strong', {}, 'all clients'), ' of the cluster.');
}

$('bulk').addEventListener('click', async () => {
  if (!settle()) {
    return;
  }
  notice('');
  // What is counted is what is shown, and that is what is kicked, whatever happens to the form meanwhile.
  const body = bulkBody();
  const about = whom();
  const progress = { done: 0, of: 0 };
  let isPartial = false;
  let most = 0;
  const question = ask({
    title: 'Kick all of these?',
    body: [about, element('p', {}, 'Counting…')],
    go: (signal) => kickAll({ ...body, confirm: 'all', partial: isPartial, max: most }, question, progress, signal),
    late: notice,
    lateError(error) {
      if (error.name === 'AbortError' && role !== null) {
        notice(`Stopped after ${count(progress.done)} of ${count(progress.of)} kicks. Some that had begun may follow: see the record of kicks.`);
      } else {
        failNotice(error);
      }
    },
    after: refresh,
  });
  try {
    const { meta, data } = await dryRun(body, question.signal);
    if (!question.isOpen()) {
      return;
    }
    isPartial = meta.nodes.failed.length > 0;
    most = meta.count;
    question.pose({
      title: `Kick ${counted(meta.count, 'client')}?`,
      number: meta.count,
      body: [
        about,
        isPartial ? element('p', { className: 'banner' }, `Those of ${inWords(meta.nodes.failed)} are not among them: no answer from there.`) : '',
        element('h3', {}, 'By node'),
        lines(meta.by_node.map(({ node, count: of }) => [node, count(of)])),
        who(data, meta.count),
      ],
    });
  } catch (error) {
    if (question.isOpen()) {
      fail('confirm-error', error);
    }
  }
});

// The first of them, by name.
function who(data, of) {
  const more = of - data.length;
  return element('details', {}, element('summary', {}, 'Who'),
    element('ul', {}, ...data.map(({ clientid, node }) => element('li', {}, `${clientid} on ${node}`)), more > 0 ? `and ${count(more)} more` : ''));
}

// Kicks them, and says how it ended. No more than were found before: `max` is their number. Who closes the question stops it.
async function kickAll(body, question, progress, signal) {
  let end = null;
  const bad = [];
  $('confirm-progress').hidden = false;
  setText($('confirm-close'), 'Stop');
  await kickMany(body, (line) => {
    if (line.progress) {
      Object.assign(progress, line.progress);
      if (question.isOpen()) {
        $('confirm-progress').max = progress.of || 1;
        $('confirm-progress').value = progress.done;
        setText($('confirm-result'), `${count(progress.done)} of ${count(progress.of)}`);
      }
    } else if (line.meta) {
      end = line.meta;
    } else if (line.outcome === 'failed' || line.outcome === 'unknown') {
      bad.push(element('li', {}, `${line.clientid}: ${line.outcome}, ${line.message ?? ''}`));
    }
  }, signal);
  if (question.isOpen()) {
    $('confirm-progress').hidden = true;
    $('confirm-body').replaceChildren(element('ul', {}, ...bad.slice(0, 100)));
  }
  if (!end) {
    throw new Error('The answer broke off: some clients may have been kicked, see the record of kicks.');
  }
  const said = Object.entries(end.outcomes).filter(([, of]) => of).map(([outcome, of]) => `${count(of)} ${outcome.replace('_', ' ')}`);
  return `${said.join(', ') || 'Nobody was there.'}${end.complete ? '' : '. Not all is done or known.'}`;
}

// ---- Files

for (const button of document.querySelectorAll('[data-download]')) {
  button.addEventListener('click', async () => {
    if (!settle()) {
      return;
    }
    notice('');
    button.disabled = true;
    try {
      const end = await download(exportQuery().toString(), button.dataset.download);
      if (!end.complete) {
        notice(`The file is not whole: ${inWords(end.nodes?.failed ?? []) || 'it broke off'}.`);
      }
    } catch (error) {
      failNotice(error instanceof TypeError ? new Error('The file is not whole: it broke off.') : error);
    } finally {
      button.disabled = false;
    }
  });
}
