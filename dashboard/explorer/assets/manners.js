/* What belongs to the window and not to the selection: theme, keys, permalink, pictures to take away. */
(function () {
  "use strict";
  const root = document.documentElement;
  const KEYS = [
    ["1 … 9", "go to a page"], ["← →", "previous or next head"], ["↑ ↓", "previous or next layer"],
    ["[ ]", "previous or next query token"], ["/", "search"], ["L", "copy a link to this view"],
    ["D", "dark or light"], ["Esc", "let go of layer, head and tokens"], ["?", "these keys"],
  ];

  function theme(name) {
    root.dataset.theme = name;
    try { localStorage.setItem("probe-theme", name); } catch (_) { /* a window without storage forgets */ }
  }
  let stored = null;
  try { stored = localStorage.getItem("probe-theme"); } catch (_) { /* same */ }
  theme(stored || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));

  function say(text) {
    let toast = document.getElementById("toast");
    if (!toast) { toast = Object.assign(document.createElement("div"), { id: "toast" }); toast.setAttribute("role", "status"); document.body.append(toast); }
    toast.textContent = text;
    toast.classList.add("on");
    clearTimeout(say.timer);
    say.timer = setTimeout(() => toast.classList.remove("on"), 2200);
  }

  function permalink() {
    const url = location.origin + location.pathname + window.probe.encode(window.probe.selection());
    const done = () => say("Link to this view copied");
    const asked = navigator.clipboard && navigator.clipboard.writeText(url);
    if (asked) asked.then(done, () => say(url)); else say(url);
  }

  function help() {
    let box = document.getElementById("keys");
    if (!box) {
      box = Object.assign(document.createElement("dialog"), { id: "keys" });
      const title = Object.assign(document.createElement("h2"), { textContent: "Keys" });
      const list = document.createElement("dl");
      for (const [key, what] of KEYS) {
        const term = document.createElement("dt");
        term.append(Object.assign(document.createElement("kbd"), { textContent: key }));
        list.append(term, Object.assign(document.createElement("dd"), { textContent: what }));
      }
      const close = Object.assign(document.createElement("button"), { textContent: "Close", onclick: () => box.close() });
      box.append(title, list, close);
      document.body.append(box);
    }
    if (box.open) box.close(); else box.showModal();
  }

  const size = (field) => {
    const input = document.getElementById(`{"field":"${field}","type":"select"}`);
    return input ? Number(input.max ?? input.querySelector("input").max) : 0;
  };
  function step(field, by) {
    if (!document.getElementById(`{"field":"${field}","type":"select"}`)) return false;
    const now = window.probe.selection()[field];
    const next = now === undefined ? 0 : Number(now) + by;
    window.probe.select({ [field]: Math.max(0, Math.min(size(field), next)) });
    return true;
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, textarea, select, [contenteditable], [role=listbox], [role=combobox], dialog, .switch")) return;
    const tab = /^[1-9]$/.test(event.key) && document.querySelector(`.page-tab[data-key="${event.key}"]`);
    const moves = { ArrowLeft: ["head", -1], ArrowRight: ["head", 1], ArrowUp: ["layer", -1], ArrowDown: ["layer", 1],
                    "[": ["query", -1], "]": ["query", 1] };
    if (tab) tab.click();
    else if (moves[event.key]) { if (!step(...moves[event.key])) return; }
    else if (event.key === "/") { const s = document.querySelector("input[type=search]"); if (!s) return; s.focus(); }
    else if (event.key.toLowerCase() === "l") permalink();
    else if (event.key.toLowerCase() === "d") theme(root.dataset.theme === "dark" ? "light" : "dark");
    else if (event.key === "?") help();
    else if (event.key === "Escape") window.probe.select({ layer: null, head: null, query: null, key: null, region: null });
    else return;
    event.preventDefault();
  });

  async function picture(button) {
    const panel = document.getElementById(button.dataset.panel);
    const graph = panel && panel.querySelector(".js-plotly-plot");
    if (!graph || !window.Plotly) { say("There is no figure to take"); return; }
    await window.Plotly.downloadImage(graph, {
      format: button.dataset.picture, filename: button.dataset.panel, width: graph.clientWidth, height: graph.clientHeight, scale: 2,
      ...(button.dataset.picture === "png" ? {} : { scale: 1 }),
    });
  }

  document.addEventListener("click", (event) => {
    const at = (selector) => event.target.closest(selector);
    if (at("#permalink")) permalink();
    else if (at("#help")) help();
    else if (at("#theme")) theme(root.dataset.theme === "dark" ? "light" : "dark");
    else if (at("[data-picture]")) picture(at("[data-picture]"));
    else if (at("a.take[data-kind]")) {
      const link = at("a.take[data-kind]");
      link.href = `/_data/${link.dataset.panel}.${link.dataset.kind}` + window.probe.encode(window.probe.selection());
    }
    for (const open of document.querySelectorAll("details.download[open]")) if (!open.contains(event.target)) open.open = false;
  }, true);
  window.probe = Object.assign(window.probe || {}, { say });
})();
