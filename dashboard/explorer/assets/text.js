/* The text: windows of tokens are drawn where they are looked at, and let go again; links light up on pointing. */
(function () {
  "use strict";
  const KEEP = 2500; // pixels beyond the view in which a window stays drawn
  const unpack = (text, kind) => new kind(Uint8Array.from(atob(text || ""), (c) => c.charCodeAt(0)).buffer);
  const visible = (text) => text.replace(/\n/g, "↵\n").replace(/\t/g, "→\t").replace(/^$/, "∅");
  let at = null; // what is shown now

  const LOOK = ["record", "tower", "sample", "layer", "head", "colour", "by", "scale"];
  const query = (selection, more) => {
    const kept = LOOK.filter((n) => selection[n] !== undefined).map((n) => [n, String(selection[n])]);
    return "?" + new URLSearchParams([...kept, ...Object.entries(more || {})]).toString();
  };

  async function fetched(place, selection, more, signal) {
    const answer = await fetch(`/_text/${place}${query(selection, more)}`, { signal });
    const found = await answer.json();
    if (!answer.ok) throw new Error(found.error || answer.statusText);
    return found;
  }

  const none = () => window.dash_clientside.no_update;

  function text(selection) { draw(selection); return none(); }
  async function draw(selection) {
    const box = document.getElementById("text-tokens");
    if (!box || !selection || !selection.record) return;
    const look = query(selection);
    if (at && at.box === box && at.look === look) { at.selection = selection; pin(true); return; }
    if (at) at.stop();
    const control = new AbortController();
    const links = at && at.box === box && at.head === headOf(selection) ? at.links : new Map();
    const same = at && at.box === box ? at : null;
    at = { box, look, selection, links, head: headOf(selection), windows: [], drawn: new Map(), stop: () => control.abort(), signal: control.signal };
    const mine = at;
    box.classList.add("loading");
    try {
      const whole = await fetched("whole", selection, {}, control.signal);
      if (at !== mine) return;
      mine.whole = whole;
      lay(mine, same);
      legend(mine);
      strip(mine);
      pin(true);
    } catch (error) {
      if (error.name !== "AbortError") { box.replaceChildren(Object.assign(document.createElement("div"), { className: "message", textContent: error.message })); }
    } finally { box.classList.remove("loading"); }
  }
  const headOf = (s) => [s.record, s.tower, s.sample, s.layer, s.head].join("|");

  /* Empty windows of the height they will probably have; each is filled when it comes near. */
  function lay(mine, before) {
    const { count, window: size } = mine.whole;
    const guess = Math.ceil((size * 5.2) / Math.max(20, mine.box.clientWidth / 8.6)) * 31;
    const scroll = before ? mine.box.scrollTop : 0;
    const old = before ? before.windows : [];
    mine.windows = Array.from({ length: Math.ceil(count / size) }, (_, number) => {
      const block = document.createElement("div");
      block.className = "window";
      block.dataset.number = number;
      block.style.minHeight = (old[number] ? old[number].offsetHeight : Math.min(guess, Math.ceil((Math.min(size, count - number * size) / size) * guess))) + "px";
      return block;
    });
    mine.box.replaceChildren(...mine.windows);
    mine.box.scrollTop = scroll;
    const watcher = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        if (entry.isIntersecting) fill(mine, entry.target);
        else if (mine.windows.length > 12) empty(mine, entry.target);
      }
      view(mine);
    }, { root: mine.box, rootMargin: `${KEEP}px 0px` });
    for (const block of mine.windows) watcher.observe(block);
    mine.box.onscroll = () => view(mine);
    const stop = mine.stop;
    mine.stop = () => { watcher.disconnect(); stop(); };
  }

  async function fill(mine, block) {
    const number = Number(block.dataset.number);
    if (mine.drawn.has(number)) return;
    mine.drawn.set(number, null);
    let found;
    try { found = await fetched("window", mine.selection, { window: number }, mine.signal); }
    catch (error) { mine.drawn.delete(number); return; }
    if (at !== mine) return;
    const colours = unpack(found.colours, Uint8Array), units = found.units ? unpack(found.units, Int32Array) : null;
    const special = new Set(found.special), pad = new Set(found.pad);
    mine.drawn.set(number, { first: found.first, values: unpack(found.values, Float32Array), texts: found.texts });
    const spans = document.createDocumentFragment();
    found.texts.forEach((token, i) => {
      if (pad.has(i)) return;
      const span = document.createElement("span");
      span.className = "t" + (special.has(i) ? " special" : "") + (units && i && units[i] !== units[i - 1] ? " begins" : "");
      span.dataset.at = found.first + i;
      span.style.setProperty("--a", colours[i] ? ((colours[i] - 1) / 254).toFixed(3) : 0);
      if (!colours[i]) span.classList.add("none");
      span.textContent = visible(token);
      spans.append(span);
    });
    block.replaceChildren(spans);
    block.style.minHeight = "";
    light();
  }

  function empty(mine, block) {
    const number = Number(block.dataset.number);
    if (!mine.drawn.get(number)) return;
    block.style.minHeight = block.offsetHeight + "px";
    block.replaceChildren();
    mine.drawn.delete(number);
  }

  const number = (x) => (Math.abs(x) >= 1000 || (x !== 0 && Math.abs(x) < 0.001) ? x.toExponential(2) : Number(x.toPrecision(4)).toString());

  function legend(mine) {
    const { whole } = mine, box = document.getElementById("text-legend");
    if (!box) return;
    const unit = whole.unit && whole.unit !== "1" ? " " + whole.unit : "";
    const part = (className, textContent) => Object.assign(document.createElement("span"), { className, textContent });
    box.replaceChildren(part("", number(whole.low) + unit), part("ramp", ""), part("", number(whole.high) + unit + " and more"),
      part("muted", `${whole.label}, ${whole.of}${mine.selection.by && mine.selection.by !== "token" ? ", mean of each " + mine.selection.by : ""} · ${whole.count.toLocaleString("en")} tokens`));
  }

  function strip(mine) {
    const canvas = document.getElementById("text-strip");
    if (!canvas) return;
    const colours = unpack(mine.whole.strip, Uint8Array), dark = document.documentElement.dataset.theme === "dark";
    canvas.width = Math.max(1, colours.length);
    canvas.height = 1;
    const context = canvas.getContext("2d"), image = context.createImageData(canvas.width, 1);
    const [low, high] = dark ? [[33, 42, 56], [90, 175, 245]] : [[240, 243, 247], [11, 74, 140]];
    colours.forEach((c, i) => {
      const a = c ? (c - 1) / 254 : 0;
      for (let k = 0; k < 3; k++) image.data[4 * i + k] = low[k] + (high[k] - low[k]) * a;
      image.data[4 * i + 3] = 255;
    });
    context.putImageData(image, 0, 0);
    canvas.onclick = (event) => {
      const r = canvas.getBoundingClientRect();
      show(Math.min(mine.whole.count - 1, Math.floor(((event.clientX - r.left) / r.width) * mine.whole.count)), true);
    };
    view(mine);
  }

  /* The frame on the strip: which part of the text is seen. */
  function view(mine) {
    const frame = document.getElementById("text-view");
    if (!frame || !mine.whole) return;
    const total = mine.box.scrollHeight || 1;
    frame.style.left = (100 * mine.box.scrollTop) / total + "%";
    frame.style.width = Math.max(0.4, (100 * mine.box.clientHeight) / total) + "%";
  }

  async function show(position, flash) {
    const mine = at;
    if (!mine || !mine.whole) return;
    const block = mine.windows[Math.floor(position / mine.whole.window)];
    if (!block) return;
    await fill(mine, block);
    for (let tries = 0; tries < 40 && !mine.drawn.get(Number(block.dataset.number)); tries++) await new Promise((r) => setTimeout(r, 25));
    const span = block.querySelector(`[data-at="${position}"]`);
    if (!span) return;
    const r = span.getBoundingClientRect(), b = mine.box.getBoundingClientRect();
    if (r.top < b.top + 20 || r.bottom > b.bottom - 20) mine.box.scrollTop += r.top - b.top - mine.box.clientHeight / 2;
    if (flash) { span.classList.add("flash"); setTimeout(() => span.classList.remove("flash"), 1200); }
  }

  let pointed = null, lit = {};

  function pin(go) {
    if (!at || !at.whole) return;
    const chosen = at.selection.query;
    if (go && chosen !== undefined && pin.last !== chosen) show(Number(chosen), true);
    pin.last = chosen;
    point(null);
  }

  async function ask(mine, position, side) {
    const key = side + position;
    if (!mine.links.has(key)) {
      if (mine.links.size > 4000) mine.links.clear();
      mine.links.set(key, fetched("links", mine.selection, { at: position, side }, null).then((f) => f.links, (e) => ({ error: e.message })));
    }
    return mine.links.get(key);
  }

  async function point(position) {
    pointed = position;
    const mine = at;
    if (!mine || !mine.whole) return;
    const pinned = mine.selection.query !== undefined ? Number(mine.selection.query) : null;
    const source = position === null ? pinned : position;
    const key = mine.selection.key !== undefined ? Number(mine.selection.key) : null;
    if (source === null) { lit = { key, to: [], by: [] }; light(); say(mine, null); return; }
    lit = { source, key, to: [], by: [] };
    const stale = () => pointed !== position || at !== mine;
    const [side, back] = [ask(mine, source, "query"), later(position === null ? 0 : BACK).then(() => (stale() ? [] : ask(mine, source, "key")))];
    const to = await side; // what it attends to comes first: a row of the map is read sooner than a column
    if (stale()) return;
    lit.to = to.error ? [] : to;
    light();
    say(mine, source, to, []);
    const by = await back;
    if (stale()) return;
    lit.by = by.error ? [] : by;
    light();
    say(mine, source, to, by);
  }
  const BACK = 150; // milliseconds that a pointer has to rest before it is asked what attends to a token
  const later = (time) => new Promise((done) => setTimeout(done, time));

  function light() {
    if (!at) return;
    for (const span of at.box.querySelectorAll(".to, .by, .source, .key")) {
      span.classList.remove("to", "by", "source", "key");
      span.style.removeProperty("--l");
    }
    const mark = (position, name, weight, top) => {
      const span = at.box.querySelector(`[data-at="${position}"]`);
      if (!span) return;
      span.classList.add(name);
      if (weight !== undefined) span.style.setProperty("--l", (0.25 + 0.75 * Math.sqrt(weight / top)).toFixed(3));
    };
    for (const [name, list] of [["by", lit.by || []], ["to", lit.to || []]]) for (const [p, w] of list) mark(p, name, w, list[0][1]);
    if (lit.key !== null && lit.key !== undefined) mark(lit.key, "key");
    if (lit.source !== undefined && lit.source !== null) mark(lit.source, "source");
  }

  function textAt(mine, position) {
    const held = mine.drawn.get(Math.floor(position / mine.whole.window));
    const token = held ? held.texts[position - held.first] : undefined;
    return token === undefined ? `${position}` : `${position} “${token.trim() || visible(token)}”`;
  }

  function say(mine, position, to, by) {
    const box = document.getElementById("text-said");
    if (!box) return;
    if (position === null) { box.textContent = ""; return; }
    const held = mine.drawn.get(Math.floor(position / mine.whole.window));
    const value = held ? held.values[position - held.first] : NaN;
    const parts = [textAt(mine, position)];
    const unit = mine.whole.unit && mine.whole.unit !== "1" ? " " + mine.whole.unit : "";
    if (Number.isFinite(value)) parts.push(`${mine.whole.label} ${number(value)}${unit}`);
    if (to && to.error) parts.push(to.error);
    else if (to && to.length) parts.push("attends to " + to.slice(0, 3).map(([p, w]) => `${textAt(mine, p)} ${(100 * w).toFixed(1)}%`).join(", "));
    if (by && !by.error && by.length) parts.push(`attended to most by ${textAt(mine, by[0][0])} ${(100 * by[0][1]).toFixed(1)}%`);
    box.textContent = parts.join(" · ");
  }

  document.addEventListener("pointerover", (event) => {
    const span = event.target.closest && event.target.closest("#text-tokens .t");
    if (!at || !at.whole) return;
    if (span) point(Number(span.dataset.at));
    else if (pointed !== null) point(null);
  });
  document.addEventListener("click", (event) => {
    const span = event.target.closest && event.target.closest("#text-tokens .t");
    if (span) window.probe.select({ [event.shiftKey ? "key" : "query"]: Number(span.dataset.at) });
  });
  new MutationObserver(() => at && at.whole && strip(at)).observe(document.documentElement, { attributeFilter: ["data-theme"] });

  window.dash_clientside = window.dash_clientside || {};
  window.dash_clientside.probe = Object.assign(window.dash_clientside.probe || {}, { text });
})();
