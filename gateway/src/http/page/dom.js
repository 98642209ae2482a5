// Elements: made of text and never of markup, and kept where they stand when what they show changes.

export const $ = (id) => document.getElementById(id);

// An element with properties, data attributes and children.
export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  const { dataset, ...others } = properties;
  Object.assign(made, others);
  Object.assign(made.dataset, dataset);
  made.append(...children);
  return made;
}

// Sets a text only if it is another, so that nothing is selected or announced anew.
export function setText(target, text) {
  if (target.textContent !== text) {
    target.textContent = text;
  }
}

// Gives a parent these children. An element that is there already (by its data-key, or by place and name) stays and is made
// alike, so that focus, a selection, and a click between its press and its release survive. If the focused one has gone, what
// stands in its place gets the focus.
export function fill(parent, wanted) {
  const focused = document.activeElement;
  const place = parent.contains(focused) ? placeOf(parent, focused) : null;
  merge(parent, wanted);
  if (place && document.activeElement !== focused) {
    (focused.isConnected ? focused : focusable(parent, place))?.focus({ preventScroll: true });
  }
}

function merge(parent, wanted) {
  const keyed = new Map([...parent.children].filter((child) => child.dataset.key).map((child) => [child.dataset.key, child]));
  const kept = new Set(wanted.map((one) => keyed.get(one.dataset?.key)));
  for (const [, child] of keyed) {
    if (!kept.has(child)) {
      child.remove();
    }
  }
  let at = parent.firstChild;
  for (const one of wanted) {
    const key = one.dataset?.key;
    let own = key ? keyed.get(key) : at;
    if (!own || own.nodeName !== one.nodeName || own.dataset?.key !== key) {
      own = null;
    }
    if (!own) {
      parent.insertBefore(one, at);
      continue;
    }
    if (own === at) {
      at = at.nextSibling;
    } else {
      parent.insertBefore(own, at);
    }
    makeAlike(own, one);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

function makeAlike(own, one) {
  if (own.nodeType === Node.TEXT_NODE) {
    if (own.data !== one.data) {
      own.data = one.data;
    }
    return;
  }
  for (const { name } of [...own.attributes]) {
    if (!one.hasAttribute(name)) {
      own.removeAttribute(name);
    }
  }
  for (const { name, value } of one.attributes) {
    if (own.getAttribute(name) !== value) {
      own.setAttribute(name, value);
    }
  }
  merge(own, [...one.childNodes]);
}

// Which child of the parent holds an element, as a number.
function placeOf(parent, held) {
  return { number: [...parent.children].findIndex((child) => child.contains(held)) };
}

function focusable(parent, { number }) {
  const child = parent.children[Math.min(number, parent.children.length - 1)];
  return child?.querySelector('button, a, input, select, summary') ?? parent.closest('[tabindex]');
}
