"use strict";
// Figures that move, and buttons to copy commands. Every page works without this.
(() => {
  const byKey = (attribute) => {
    const found = new Map();
    for (const element of document.querySelectorAll(`[${attribute}]`)) {
      const key = element.getAttribute(attribute);
      found.set(key, [...(found.get(key) || []), element]);
    }
    return found;
  };

  const live = () => {
    const state = document.getElementById("live-state");
    const says = document.getElementById("live-says");
    const path = location.pathname + location.search;
    let shape = document.body.dataset.shape;
    let asking = false;
    let source = null;

    const tell = (text) => {
      if (state) state.textContent = text;
    };

    const logIn = () => location.assign("/login?next=" + encodeURIComponent(path));

    // Puts the parts of the page as it is by now into the page as it is here. A part with the focus waits.
    const refresh = async () => {
      if (asking) return false;
      asking = true;
      try {
        const answer = await fetch(path, { headers: { "X-Reprise-Refresh": "1" }, cache: "no-store" });
        if (answer.redirected && new URL(answer.url).pathname === "/login") return logIn();
        if (!answer.ok) return false;
        const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
        let all = true;
        for (const part of document.querySelectorAll("[data-part]")) {
          const other = fresh.querySelector(`[data-part="${part.dataset.part}"]`);
          if (!other) continue;
          if (part.contains(document.activeElement)) {
            all = false;
            continue;
          }
          const open = [...part.querySelectorAll("details[open]")].map((d) => d.id);
          part.replaceChildren(...other.childNodes);
          for (const id of open) document.getElementById(id)?.setAttribute("open", "");
        }
        return all;
      } catch {
        return false;
      } finally {
        asking = false;
      }
    };

    const figures = async (event) => {
      const message = JSON.parse(event.data);
      const texts = byKey("data-live");
      for (const [key, text] of Object.entries(message.texts)) {
        for (const element of texts.get(key) || []) {
          if (element.textContent !== text) element.textContent = text;
        }
      }
      const lines = byKey("data-path");
      for (const [key, d] of Object.entries(message.paths)) {
        for (const element of lines.get(key) || []) element.setAttribute("d", d);
      }
      if (says && says.textContent !== message.says) says.textContent = message.says;
      tell(message.at ? "Figures of " + message.at : "The box does not answer; figures are old");
      if (message.shape !== shape && (await refresh())) shape = message.shape;
    };

    const open = () => {
      if (source) return;
      source = new EventSource("/live");
      source.addEventListener("figures", figures);
      source.addEventListener("gone", logIn);
      source.addEventListener("error", () => tell("Connection lost; figures are old"));
    };
    // A window nobody sees needs no stream, and browsers have few connections for one address.
    const close = () => {
      source?.close();
      source = null;
    };
    document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
    addEventListener("pagehide", close);
    addEventListener("pageshow", () => document.hidden || open());
    if (!document.hidden) open();
  };

  const copying = () => {
    for (const text of document.querySelectorAll("[data-copy]")) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = "Copy";
      button.addEventListener("click", async () => {
        try {
          await navigator.clipboard.writeText(text.textContent);
          button.textContent = "Copied";
        } catch {
          getSelection().selectAllChildren(text);
          button.textContent = "Selected: press Ctrl+C";
        }
      });
      text.after(button);
    }
  };

  if (document.body.hasAttribute("data-live-page")) live();
  if (navigator.clipboard) copying();
})();
