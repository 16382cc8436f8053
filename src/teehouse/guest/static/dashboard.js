// Keeps the page current: asks for its parts every two seconds and exchanges those that differ. Open details,
// the focus and a selection stay as they are. Nothing here makes markup out of text.
"use strict";

(() => {
  const PERIOD = 2000;
  const PATIENCE = 10000;
  const status = document.getElementById("refresh");
  const shown = new Map(); // id -> the part as the server sent it
  let failing = false;

  const live = (root) => root.querySelectorAll("[data-live]");
  for (const part of live(document)) shown.set(part.id, part.cloneNode(true));

  function load(address) {
    return new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      request.open("GET", address);
      request.responseType = "document";
      request.timeout = PATIENCE;
      request.onload = () => {
        if (request.status === 200 && request.response) resolve(request.response);
        else reject(new Error(String(request.status)));
      };
      request.onerror = request.ontimeout = () => reject(new Error("no answer"));
      request.send();
    });
  }

  function selecting(part) {
    const selection = document.getSelection();
    return selection && !selection.isCollapsed && selection.containsNode(part, true);
  }

  function exchange(part, fresh) {
    const next = document.importNode(fresh, true);
    for (const details of part.querySelectorAll("details[open][id]")) {
      const twin = next.querySelector("#" + CSS.escape(details.id));
      if (twin) twin.open = true;
    }
    addButtons(next);
    const reachable = "a[href], button, summary, textarea";
    const focus = [...part.querySelectorAll(reachable)].indexOf(document.activeElement);
    part.replaceWith(next);
    if (focus >= 0) next.querySelectorAll(reachable)[focus]?.focus({ preventScroll: true });
  }

  async function refreshTcb() {
    const fresh = (await load("/?fragment=tcb")).getElementById("tcb");
    const old = document.getElementById("tcb");
    if (!fresh || !old || selecting(old)) return;
    const [area, update] = [old.querySelector("textarea"), fresh.querySelector("textarea")];
    if (area && update) area.value = update.value;
    else exchange(old, fresh);
  }

  async function refresh() {
    const fresh = await load("/?fragment=1");
    const parts = new Map([...live(fresh)].map((part) => [part.id, part]));
    let measured = false;
    for (const [id, before] of shown) {
      const part = document.getElementById(id);
      const next = parts.get(id);
      if (!part || !next || next.isEqualNode(before) || selecting(part)) continue;
      exchange(part, next);
      shown.set(id, next);
      measured ||= id === "measurements";
    }
    if (measured) await refreshTcb();
  }

  function say(text, lost) {
    status.className = lost ? "lost" : "live";
    if (status.textContent !== text) status.textContent = text;
  }

  async function turn() {
    if (!document.hidden) {
      try {
        await refresh();
        failing = false;
        say("Live: refreshed every 2 seconds", false);
      } catch {
        if (!failing) say("No answer since " + new Date().toLocaleTimeString() + "; still asking", true);
        failing = true;
      }
    }
    setTimeout(turn, PERIOD);
  }

  function addButtons(root) {
    for (const value of root.querySelectorAll("[data-copy]")) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "copy";
      button.textContent = "Copy";
      button.setAttribute("aria-label", "Copy " + value.dataset.copy);
      value.after(button);
    }
  }

  async function copy(value) {
    if (navigator.clipboard) return navigator.clipboard.writeText(value.textContent);
    const range = document.createRange(); // over plain HTTP there is no clipboard but this one
    range.selectNodeContents(value);
    const selection = document.getSelection();
    selection.removeAllRanges();
    selection.addRange(range);
    const done = document.execCommand("copy");
    selection.removeAllRanges();
    if (!done) throw new Error("refused");
  }

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("button.copy");
    if (!button) return;
    try {
      await copy(button.previousElementSibling);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Not copied";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });

  addButtons(document);
  say("Live: refreshed every 2 seconds", false);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh().catch(() => {}); });
  setTimeout(turn, PERIOD);
})();
