"use strict";
// Keeps the element #live up to date: the server sends its HTML, and morph changes only what differs, so that focus,
// selection and what is typed stay.
(() => {
  const live = document.getElementById("live");
  const connection = document.getElementById("connection");
  let source = null;
  let heard = 0; // when something came, in milliseconds of performance.now

  function say(text) {
    connection.classList.remove("lost");
    if (connection.textContent !== text) connection.textContent = text;
  }

  function lost() {
    const at = live.dataset.at ? ` This is the state of ${live.dataset.at}.` : "";
    say("Not live: connection lost, trying again." + at);
    connection.classList.add("lost");
  }

  function start() {
    if (source || document.hidden) return;
    heard = performance.now();
    connect();
  }

  function connect() {
    source = new EventSource(live.dataset.src);
    for (const name of ["update", "alive"]) {
      source.addEventListener(name, (event) => {
        heard = performance.now();
        if (name === "update") update(event.data);
        say("Live");
      });
    }
    source.addEventListener("error", () => {
      if (source.readyState === EventSource.CLOSED) lost(); // otherwise the browser connects again at once
    });
  }

  function close() {
    source.close();
    source = null;
  }

  function stop() {
    if (!source) return;
    close();
    say("Paused");
  }

  // The server sends something at least each 5 s. The browser does not notice a connection on which nothing comes any
  // more. And it gives up if the answer is an error, such as that of a proxy while the program starts again.
  let tried = 0;
  setInterval(() => {
    if (!source) return;
    const now = performance.now();
    if (now - heard > 8000) lost();
    const broken = now - heard > 15000 || source.readyState === EventSource.CLOSED;
    if (!broken || now - tried < 5000) return;
    tried = now;
    close();
    connect();
  }, 1000);

  function update(html) {
    const template = document.createElement("template");
    template.innerHTML = html; // made by the server, which escapes
    const next = template.content.firstElementChild;
    if (!next) return;
    const focused = document.activeElement;
    morph(live, next);
    if (focused && focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true });
    document.title = `${live.dataset.title} - ${document.documentElement.dataset.name}`;
  }

  // morph makes have equal to want. Children with an id are moved rather than changed into each other.
  function morph(have, want) {
    for (const { name } of [...have.attributes]) {
      // The attribute open of details belongs to the person.
      if (!want.hasAttribute(name) && name !== "open") have.removeAttribute(name);
    }
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
