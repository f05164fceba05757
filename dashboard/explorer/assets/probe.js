/* The shell: the address carries the whole state; panels write the selection, this writes the address. */
(function () {
  "use strict";
  const FRAME = ["record", "other", "tower", "sample"];
  const parse = (search) => Object.fromEntries(new URLSearchParams(search || ""));
  const encode = (fields) => {
    const kept = Object.entries(fields || {}).filter(([, v]) => v !== null && v !== undefined && v !== "");
    return kept.length ? "?" + new URLSearchParams(kept.map(([k, v]) => [k, String(v)])).toString() : "";
  };
  const same = (a, b) => {
    const names = new Set([...Object.keys(a), ...Object.keys(b)]);
    return [...names].every((n) => String(a[n] ?? "") === String(b[n] ?? ""));
  };
  const props = (id, values) => window.dash_clientside.set_props(id, values);
  const none = () => window.dash_clientside.no_update;
  let current = {};
  const written = []; // addresses that a selection wrote, whose echo is no navigation, however late it comes
  window.addEventListener("popstate", () => { written.length = 0; });

  /* As Dash's own links do it: its Location listens and reads the address anew. */
  function go(address) {
    window.history.pushState({}, "", address);
    window.dispatchEvent(new CustomEvent("_dashprivate_pushstate"));
  }

  /* Change some fields of the selection; `null` takes one away. */
  function select(changes) {
    const next = { ...current };
    for (const [name, value] of Object.entries(changes)) {
      if (value === null || value === undefined || value === "") delete next[name];
      else next[name] = value;
    }
    if (!same(next, current)) { current = next; props("selection", { data: next }); }
  }

  function route(path, search, selection, shown) {
    if (path === undefined || path === null) return none();
    const mine = written.indexOf(path + (search || ""));
    if (mine >= 0) { written.splice(0, mine + 1); return none(); }
    if (shown && shown.path === path && selection && same(parse(search), selection)) return none();
    return { path, search: search || "", at: Date.now() };
  }

  function selected(selection, path, search, shown) {
    if (!selection) return;
    current = selection;
    const wanted = encode(current);
    if (!same(parse(search), current)) {
      written.push(path + wanted);
      go(path + wanted);
      const before = parse(shown && shown.search);
      if (FRAME.some((n) => String(before[n] ?? "") !== String(current[n] ?? "")))
        props("route", { data: { path, search: wanted, at: Date.now() } });
    }
    mark(path);
    showInBar();
  }

  function mark(path) {
    for (const link of document.querySelectorAll(".page-tab")) {
      const on = link.dataset.page === ((path || "/").replace(/\//g, "") || "records");
      link.classList.toggle("on", on);
      if (on) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
    }
  }

  /* The bar of the selection: one control at a time is a person's; many at once are a page that was just laid. */
  const PLACES = ["tower", "sample", "step", "layer", "head", "query", "key", "region"];
  function bar() {
    const triggered = window.dash_clientside.callback_context.triggered;
    if (triggered.length !== 1) return;
    const field = JSON.parse(triggered[0].prop_id.replace(/\.value$/, "")).field;
    const value = triggered[0].value;
    if (String(value ?? "") === String(current[field] ?? "") || String(value ?? "") === told[field]) return;
    const cleared = field === "record" ? PLACES : field === "tower" ? PLACES.slice(1) : [];
    const changes = Object.fromEntries(cleared.map((n) => [n, null]));
    changes[field] = field === "sample" && value === 0 ? null : value;
    select(changes);
  }
  const told = {}; // what this wrote into the bar last: its echo is no choice of a person
  function showInBar() {
    for (const field of ["layer", "head", "query", "key"]) {
      const id = { type: "select", field };
      told[field] = String(current[field] ?? "");
      if (document.getElementById(`{"field":"${field}","type":"select"}`)) props(id, { value: current[field] ?? null });
    }
  }

  /* Moving to another page keeps the selection. */
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[href^='/']");
    if (!link || event.metaKey || event.ctrlKey || event.shiftKey || link.target || link.hasAttribute("download")) return;
    if (link.dataset.raw !== undefined || link.getAttribute("href").startsWith("/_")) return;
    event.preventDefault();
    const to = new URL(link.href);
    const search = link.classList.contains("page-tab") ? encode(current) : to.search;
    go(to.pathname + search);
  });

  function search(text) {
    const words = (text || "").toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of document.querySelectorAll("#record-rows tr")) {
      const on = words.every((w) => row.dataset.words.includes(w));
      row.hidden = !on;
      shown += on ? 1 : 0;
    }
    return `${shown} record${shown === 1 ? "" : "s"}`;
  }

  /* A panel redraws only when a field that it uses has changed. */
  const drawn = {};
  function uses(selection, fields) {
    if (!selection || !fields) return none();
    const used = Object.fromEntries(fields.filter((n) => n in selection).map((n) => [n, selection[n]]));
    const id = window.dash_clientside.callback_context.outputs_list.id;
    const place = document.getElementById(id.replace(/-uses$/, ""));
    if (drawn[id] && drawn[id].place === place && same(drawn[id].used, used)) return none();
    drawn[id] = { place, used };
    return used;
  }

  /* A point that carries the fields named by its figure's `layout.meta.select` writes them into the selection. */
  function picked(click, id) {
    if (!click || !click.points || !click.points.length) return;
    const graph = document.querySelector(`#${CSS.escape(id)} .js-plotly-plot`);
    const names = graph && graph.layout && graph.layout.meta && graph.layout.meta.select;
    const values = click.points[0].customdata;
    if (!names || !values) return;
    select(Object.fromEntries(names.map((n, i) => [n, values[i]])));
  }

  /* A job is done: the selection names it, and the panels show it. */
  function finished(fields) {
    if (fields) select(fields);
    return none();
  }

  window.dash_clientside = window.dash_clientside || {};
  window.dash_clientside.probe = Object.assign(window.dash_clientside.probe || {}, { route, selected, search, bar, uses, picked, finished });
  window.probe = Object.assign(window.probe || {}, { select, selection: () => current, encode, parse });
})();
