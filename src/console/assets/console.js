// The console's only script. Every page works without it; it adds: live parts, times ago, dark and light, keys.
"use strict";

// Dark or light: what was chosen here, else what the system says.
const root = document.documentElement;
const chosen = (() => { try { return localStorage.getItem("theme"); } catch { return null; } })();
if (chosen) root.dataset.theme = chosen;
const toggle = document.querySelector("[data-theme-toggle]");
if (toggle) {
  toggle.hidden = false;
  toggle.addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    try { localStorage.setItem("theme", root.dataset.theme); } catch { /* a private window */ }
  });
}

// How long ago, beside every time.
const UNITS = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
function ago(seconds) {
  const whole = Math.round(Math.abs(seconds));
  const [size, unit] = UNITS.find(([size]) => whole >= size) ?? [1, "s"];
  const text = `${Math.floor(whole / size)} ${unit}`;
  return seconds < 0 ? `in ${text}` : `${text} ago`;
}
function age() {
  for (const element of document.querySelectorAll("time[datetime]")) {
    const seconds = (Date.now() - Date.parse(element.dateTime)) / 1000;
    if (Number.isFinite(seconds)) element.dataset.ago = ago(seconds);
  }
}
age();
setInterval(age, 5000);

// The live part: replaced when the server says that it has changed, but never under somebody's hands.
const live = document.querySelector("[data-live]");
const state = document.querySelector("[data-live-state]");
function say(text) { if (state && state.textContent !== text) state.textContent = text; }
function show(markup) {
  const holds = live.contains(document.activeElement) && document.activeElement.matches("input, select, textarea");
  const selects = !getSelection().isCollapsed && live.contains(getSelection().anchorNode);
  if (holds || selects) return;
  const open = [...live.querySelectorAll("details[open][id]")].map((details) => details.id);
  const focused = live.contains(document.activeElement) ? document.activeElement.id : "";
  const scrolls = [...live.querySelectorAll(".scroll")].map((box) => box.scrollLeft);
  live.innerHTML = markup;
  for (const id of open) document.getElementById(id)?.setAttribute("open", "");
  live.querySelectorAll(".scroll").forEach((box, at) => { box.scrollLeft = scrolls[at] ?? 0; });
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  age();
}
let source = null;
function watch() {
  if (!live || source) return;
  const page = location.pathname + location.search;
  source = new EventSource("/admin/live?page=" + encodeURIComponent(page));
  source.addEventListener("open", () => say("live"));
  source.addEventListener("live", (event) => { say("live"); show(event.data); });
  source.addEventListener("gone", () => { stop(); location.reload(); });
  source.addEventListener("error", () => {
    say("reconnecting");
    if (source && source.readyState === EventSource.CLOSED) { stop(); setTimeout(watch, 10000); }
  });
}
function stop() { if (source) { source.close(); source = null; } }
document.addEventListener("visibilitychange", () => (document.hidden ? stop() : watch()));
addEventListener("pagehide", stop);
if (!document.hidden) watch();

// Keys: "/" to the filter, "g" and a letter to a section, "?" says so.
if (document.body.hasAttribute("data-keys")) {
  let after = null;
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea")) return;
    if (event.key === "/") {
      const field = document.querySelector("form.filter input, form.filter select");
      if (field) { event.preventDefault(); field.focus(); }
    } else if (after === "g") {
      const link = [...document.querySelectorAll("header nav a")].find((a) => a.textContent.trim().toLowerCase().startsWith(event.key));
      if (link) link.click();
    }
    after = event.key === "g" ? "g" : null;
  });
}

// A form is sent once.
document.addEventListener("submit", (event) => {
  const button = event.target.method === "post" && event.target.querySelector("button:not([type=button])");
  if (button) setTimeout(() => { button.disabled = true; }, 0);
});
addEventListener("pageshow", () => document.querySelectorAll("button:disabled").forEach((button) => { button.disabled = false; }));

// Copy what stands beside.
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-copy]");
  if (button && navigator.clipboard) navigator.clipboard.writeText(button.dataset.copy).then(() => { button.dataset.done = ""; });
});
