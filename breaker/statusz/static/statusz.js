"use strict";
// Keeps the element #live up to date: the server sends its HTML, and morph changes only what differs, so that focus,
// selection and what is typed stay.
(() => {
  const live = document.getElementById("live");
  const connection = document.getElementById("connection");
  let source = null;

  function say(text) {
    if (connection.textContent !== text) connection.textContent = text;
  }

  function start() {
    if (source || document.hidden) return;
    source = new EventSource(live.dataset.src);
    source.addEventListener("open", () => say("Live"));
    source.addEventListener("update", (event) => update(event.data));
    source.addEventListener("error", () => {
      say(source.readyState === EventSource.CLOSED ? "Not live: reload the page" : "Connection lost, trying again");
    });
  }

  function stop() {
    if (!source) return;
    source.close();
    source = null;
    say("Paused");
  }

  function update(html) {
    const template = document.createElement("template");
    template.innerHTML = html; // made by the server, which escapes
    const next = template.content.firstElementChild;
    if (!next) return;
    const focused = document.activeElement;
    morph(live, next);
    if (focused && focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true });
    document.title = live.dataset.title + " - circuit breakers";
  }

  // morph makes have equal to want. Children with an id are moved rather than changed into each other.
  function morph(have, want) {
    for (const { name } of [...have.attributes]) if (!want.hasAttribute(name)) have.removeAttribute(name);
    for (const { name, value } of [...want.attributes]) {
      if (have.getAttribute(name) !== value) have.setAttribute(name, value);
    }
    const byID = new Map([...have.children].filter((c) => c.id).map((c) => [c.id, c]));
    let at = have.firstChild;
    for (const child of [...want.childNodes]) {
      let old = child.id ? byID.get(child.id) : at;
      if (!old || old.nodeName !== child.nodeName || (!child.id && old.id)) {
        have.insertBefore(child, at);
        continue;
      }
      if (old === at) at = at.nextSibling;
      else have.insertBefore(old, at);
      if (old.nodeType === Node.ELEMENT_NODE) morph(old, child);
      else if (old.data !== child.data) old.data = child.data;
    }
    while (at) {
      const next = at.nextSibling;
      at.remove();
      at = next;
    }
  }

  document.addEventListener("visibilitychange", () => (document.hidden ? stop() : start()));
  window.addEventListener("pagehide", stop);
  window.addEventListener("pageshow", start);
  start();
})();
