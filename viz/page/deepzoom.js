/* Deep zoom into one attention map: tiles of codes, coloured here; drag to pan, wheel or pinch to zoom, arrows to walk.
   `source` answers: about(), tile(reduce, size, row, column) -> Blob, cell(query, key), curve(side, size, block) -> Float32Array,
   texts(side, first, last). Nothing here knows whether a server or a notebook's kernel answers. */
const LABELS = 92, TOP = 62, BAND = 40, EDGE = 58, HELD = 160, DECADES = 3;
const css = (node, name, other) => getComputedStyle(node).getPropertyValue(name).trim() || other;
const clamp = (x, low, high) => Math.min(high, Math.max(low, x));
const said = (p) => p === null ? "hidden by the rules" : p === 0 ? "0" : p >= 0.001 ? p.toFixed(p >= 0.1 ? 3 : 4) : p.toExponential(1);
const shown = (text) => text.replace(/\n/g, "⏎").replace(/\t/g, "⇥").replace(/^ /, "␣") || "∅";
const node = (tag, props = {}, ...children) => { const made = Object.assign(document.createElement(tag), props); made.append(...children); return made; };

/* Bounded memory of what was asked for; an entry is a promise, then `value`. */
class Held {
  constructor(ask, most) { this.ask = ask; this.most = most; this.map = new Map(); this.running = 0; this.waiting = []; }
  get(key, ...args) {
    let entry = this.map.get(key);
    if (entry) { this.map.delete(key); this.map.set(key, entry); return entry; }
    entry = { value: null, failed: false };
    this.map.set(key, entry);
    if (this.map.size > this.most) this.map.delete(this.map.keys().next().value);
    this.waiting.push({ key, args, entry });
    this.next();
    return entry;
  }
  has(key) { return this.map.get(key)?.value ?? null; }
  next() {
    while (this.running < 6 && this.waiting.length) {
      const { key, args, entry } = this.waiting.pop(); /* the last asked for is what is looked at now */
      if (this.wanted && !this.wanted(key)) { this.map.delete(key); continue; }
      this.running += 1;
      Promise.resolve(this.ask(...args)).then((v) => { entry.value = v; }, () => { entry.failed = true; })
        .finally(() => { this.running -= 1; this.onload?.(); this.next(); });
    }
  }
  get busy() { return this.running + this.waiting.length > 0; }
}

async function codesOf(blob) {
  const picture = await createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  const canvas = new OffscreenCanvas(picture.width, picture.height), pen = canvas.getContext("2d", { willReadFrequently: true });
  pen.drawImage(picture, 0, 0);
  const pixels = pen.getImageData(0, 0, picture.width, picture.height).data, codes = new Uint8Array(pixels.length / 4);
  for (let i = 0; i < codes.length; i++) codes[i] = pixels[4 * i];
  const count = new Uint32Array(256);
  for (const c of codes) count[c] += 1;
  return { width: picture.width, height: picture.height, codes, count, canvas, painted: -1 };
}

export class DeepZoom {
  constructor(root, source, options = {}) {
    this.root = root; this.source = source; this.options = options;
    this.reduce = "mean"; this.log = options.log ?? true; this.paint = 0; this.pointers = new Map(); this.region = "";
    this.selected = Number.isInteger(options.query) && Number.isInteger(options.key) ? [options.query, options.key] : null;
    this.ready = this.begin();
  }

  async begin() {
    this.build();
    try { this.about = await this.source.about(); } catch (error) { this.fail(error); return; }
    const a = this.about;
    for (const name of ["mean", "max"]) this.buttons[name].disabled = !a.largest[name];
    this.tiles = new Held(async (...at) => codesOf(await this.source.tile(...at)), HELD);
    this.tiles.wanted = (key) => this.view.has(key);
    this.curves = new Held((...at) => this.source.curve(...at), 64);
    this.words = new Held((...at) => this.source.texts(...at), 64);
    for (const held of [this.tiles, this.curves, this.words]) held.onload = () => this.draw();
    this.watch = new ResizeObserver(() => this.resize());
    this.watch.observe(this.canvas);
    this.resize();
    while (!this.area) { await new Promise((done) => setTimeout(done, 50)); if (this.gone) return; this.resize(); }
    if (this.options.region) this.show(this.options.region); else this.fit();
    this.root.dataset.state = "ready";
  }

  build() {
    this.root.classList.add("deepzoom");
    const button = (label, title, act) => node("button", { type: "button", textContent: label, title, onclick: () => { act(); this.canvas.focus({ preventScroll: true }); } });
    this.buttons = {
      out: button("−", "Zoom out (−)", () => this.zoom(0.5)), in: button("+", "Zoom in (+)", () => this.zoom(2)),
      fit: button("Whole map", "Show the whole map (0)", () => this.fit()),
      mean: button("mean", "A cell of several pairs shows the mean of their weights", () => this.change({ reduce: "mean" })),
      max: button("max", "A cell of several pairs shows their largest weight", () => this.change({ reduce: "max" })),
      log: button("log", "Colours on a log scale (g)", () => this.change({ log: !this.log })),
    };
    this.level = node("span", { className: "dz-level" });
    const bar = node("div", { className: "dz-bar" }, ...Object.values(this.buttons), this.level);
    this.canvas = node("canvas", { tabIndex: 0 });
    this.canvas.setAttribute("role", "application");
    this.canvas.setAttribute("aria-label", "Attention map: queries downwards, keys to the right. Arrows walk, plus and minus zoom, Enter chooses, 0 shows the whole map.");
    this.readout = node("output", { className: "dz-readout", textContent: "Loading the map …" });
    this.readout.setAttribute("aria-live", "polite");
    this.key = node("canvas", { className: "dz-key", width: 200, height: 10 });
    this.keyWords = node("span", { className: "dz-key-words" });
    this.root.replaceChildren(bar, this.canvas, node("div", { className: "dz-foot" }, this.readout, node("span", { className: "dz-legend" }, this.key, this.keyWords)));
    this.listen();
  }

  fail(error) { this.root.dataset.state = "failed"; this.readout.textContent = String(error.message || error); }

  listen() {
    const c = this.canvas, at = (e) => { const box = c.getBoundingClientRect(); return [e.clientX - box.left, e.clientY - box.top]; };
    c.addEventListener("wheel", (e) => { e.preventDefault(); this.zoom(Math.exp(-clamp(e.deltaY, -240, 240) / 300), at(e)); }, { passive: false });
    c.addEventListener("pointerdown", (e) => { c.setPointerCapture(e.pointerId); this.pointers.set(e.pointerId, at(e)); this.moved = 0; });
    c.addEventListener("pointermove", (e) => {
      const now = at(e), before = this.pointers.get(e.pointerId);
      if (!before) { this.hover(now); return; }
      const others = [...this.pointers].filter(([id]) => id !== e.pointerId).map(([, p]) => p);
      this.pointers.set(e.pointerId, now);
      if (others.length) {
        const [o] = others, far = (p) => Math.hypot(p[0] - o[0], p[1] - o[1]) || 1;
        this.zoom(far(now) / far(before), [(now[0] + o[0]) / 2, (now[1] + o[1]) / 2]);
      } else {
        this.moved += Math.abs(now[0] - before[0]) + Math.abs(now[1] - before[1]);
        this.pan(before[0] - now[0], before[1] - now[1]);
      }
    });
    const up = (e) => { if (this.pointers.delete(e.pointerId) && this.moved < 4 && e.type === "pointerup") this.choose(this.place(at(e))); };
    c.addEventListener("pointerup", up); c.addEventListener("pointercancel", up);
    c.addEventListener("pointerleave", () => { this.cursor = null; this.draw(); this.tell(this.selected); });
    c.addEventListener("dblclick", (e) => this.zoom(4, at(e)));
    c.addEventListener("keydown", (e) => {
      const walk = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[e.key];
      if (e.ctrlKey || e.metaKey || e.altKey || !this.about) return;
      if (walk) this.walk(walk, e.shiftKey);
      else if (e.key === "+" || e.key === "=") this.zoom(2);
      else if (e.key === "-") this.zoom(0.5);
      else if (e.key === "0" || e.key === "Home") this.fit();
      else if (e.key === "g") this.change({ log: !this.log });
      else if (e.key === "Enter" && this.cursor) this.choose(this.cursor);
      else return;
      e.preventDefault(); e.stopPropagation();
    });
  }

  /* Geometry: the map's area in the canvas, positions per pixel, what stands under a pixel. */
  resize() {
    const ratio = Math.min(2, devicePixelRatio || 1), box = this.canvas.getBoundingClientRect();
    if (!box.width) return;
    const first = !this.area;
    this.canvas.width = Math.round(box.width * ratio); this.canvas.height = Math.round(box.height * ratio); this.ratio = ratio;
    this.area = { x: LABELS, y: TOP + BAND, w: box.width - LABELS - EDGE, h: box.height - TOP - BAND - 6 };
    if (!first) { this.bound(); this.draw(); }
  }
  get fitScale() { return Math.min(this.area.w / this.about.keys, this.area.h / this.about.queries); }
  fit() { this.scale = this.fitScale; this.x = 0; this.y = 0; this.bound(); this.draw(); }
  bound() {
    const { w, h } = this.area, { keys, queries } = this.about;
    this.scale = clamp(this.scale, Math.min(this.fitScale, 44), Math.max(44, this.fitScale));
    const wide = w / this.scale, tall = h / this.scale;
    this.x = wide >= keys ? 0 : clamp(this.x, 0, keys - wide);
    this.y = tall >= queries ? 0 : clamp(this.y, 0, queries - tall);
    clearTimeout(this.later);
    this.later = setTimeout(() => this.settle(), 250);
  }
  zoom(factor, at = null) {
    if (!this.about) return;
    const p = at ?? (this.cursor ? this.pixel(this.cursor) : [this.area.x + this.area.w / 2, this.area.y + this.area.h / 2]);
    const px = clamp(p[0], this.area.x, this.area.x + this.area.w), py = clamp(p[1], this.area.y, this.area.y + this.area.h);
    const kx = this.x + (px - this.area.x) / this.scale, qy = this.y + (py - this.area.y) / this.scale;
    this.scale = clamp(this.scale * factor, Math.min(this.fitScale, 44), Math.max(44, this.fitScale));
    this.x = kx - (px - this.area.x) / this.scale; this.y = qy - (py - this.area.y) / this.scale;
    this.bound(); this.draw();
  }
  pan(dx, dy) { this.x += dx / this.scale; this.y += dy / this.scale; this.bound(); this.draw(); }
  pixel([query, key]) { return [this.area.x + (key + 0.5 - this.x) * this.scale, this.area.y + (query + 0.5 - this.y) * this.scale]; }
  place([px, py]) {
    if (!this.about) return null;
    const key = Math.floor(this.x + (px - this.area.x) / this.scale), query = Math.floor(this.y + (py - this.area.y) / this.scale);
    const inside = px >= this.area.x && py >= this.area.y && key >= 0 && query >= 0 && key < this.about.keys && query < this.about.queries;
    return inside ? [query, key] : null;
  }
  walk([down, right], far) {
    const step = far ? 10 * this.size : this.size, from = this.cursor ?? this.selected ?? [Math.floor(this.y + this.area.h / this.scale / 2), Math.floor(this.x + this.area.w / this.scale / 2)];
    this.cursor = [clamp(from[0] + down * step, 0, this.about.queries - 1), clamp(from[1] + right * step, 0, this.about.keys - 1)];
    const [px, py] = this.pixel(this.cursor), { x, y, w, h } = this.area;
    this.pan(px < x ? px - x - 40 : px > x + w ? px - x - w + 40 : 0, py < y ? py - y - 40 : py > y + h ? py - y - h + 40 : 0);
    this.tell(this.cursor);
  }
  show(region) {
    const [a, b, c, d] = region.split(/[-x]/).map(Number);
    this.scale = Math.min(this.area.w / (d - c), this.area.h / (b - a));
    this.x = (c + d) / 2 - this.area.w / this.scale / 2; this.y = (a + b) / 2 - this.area.h / this.scale / 2;
    this.bound(); this.draw();
  }
  settle() {
    const { keys, queries } = this.about, { w, h } = this.area;
    const span = (from, wide, most) => [clamp(Math.floor(from), 0, most - 1), clamp(Math.ceil(from + wide), 1, most)];
    const [a, b] = span(this.y, h / this.scale, queries), [c, d] = span(this.x, w / this.scale, keys);
    const whole = a === 0 && c === 0 && b === queries && d === keys, region = whole ? "" : `${a}-${b}x${c}-${d}`;
    if (region !== this.region) { this.region = region; this.options.onregion?.(region); }
  }
  change(settings) { Object.assign(this, settings); this.draw(); }
  hover(p) { this.cursor = this.place(p); this.draw(); this.tell(this.cursor ?? this.selected); }
  choose(place) {
    if (!place) return;
    this.selected = place; this.draw(); this.tell(place);
    this.options.onselect?.({ query: place[0], key: place[1] });
  }

  /* What a place holds: at once from its tile, exactly a moment later. */
  tell(place) {
    clearTimeout(this.asking);
    if (!place) { this.readout.textContent = "Drag to move, wheel or pinch to zoom, click a cell to choose it."; return; }
    const [query, key] = place, code = this.codeAt(query, key), [qs, ks] = [this.text("queries", query), this.text("keys", key)];
    const ends = (q, k) => `query ${query}${q === null ? "" : ` “${shown(q)}”`} → key ${key}${k === null ? "" : ` “${shown(k)}”`}`;
    const cell = this.size > 1 && code > 1 ? ` · its ${this.size}×${this.size} cell: ${this.reduce} ≈ ${said(2 ** ((code - 255) / this.about.per_octave))}` : "";
    this.readout.textContent = `${ends(qs, ks)}: …${cell}`; this.readout.dataset.exact = "";
    this.asking = setTimeout(async () => {
      try {
        const found = await this.source.cell(query, key);
        const now = this.cursor ?? this.selected;
        if (!now || now[0] !== query || now[1] !== key) return;
        const score = found.score === null ? "" : ` (score ${found.score.toFixed(2)})`;
        this.readout.textContent = `${ends(found.query_text, found.key_text)}: weight ${said(found.weight)}${score}${cell}`;
        this.readout.dataset.exact = found.weight === null ? "hidden" : String(found.weight);
      } catch (error) { this.readout.textContent = String(error.message || error); }
    }, 70);
  }
  text(side, at) {
    const block = Math.floor(at / 1024), held = this.words.has(`${side}/${block}`);
    return held ? held[at - block * 1024] ?? null : null;
  }
  codeAt(query, key) {
    const step = this.about.side * this.size, tile = this.tiles.has(`${this.reduce}/${this.size}/${Math.floor(query / step)}/${Math.floor(key / step)}`);
    if (!tile) return 0;
    return tile.codes[Math.floor((query % step) / this.size) * tile.width + Math.floor((key % step) / this.size)];
  }

  /* Drawing. */
  draw() { if (!this.frame) this.frame = requestAnimationFrame(() => { this.frame = 0; this.drawNow(); }); }
  drawNow() {
    if (!this.area || !this.about || !this.scale) return;
    const pen = this.canvas.getContext("2d"), { x, y, w, h } = this.area;
    this.ink = css(this.root, "--ink", "#1d2433"); this.muted = css(this.root, "--muted", "#5a6475"); this.rule = css(this.root, "--rule", "#d9dee6");
    this.accent = css(this.root, "--mark", "#d55e00"); this.dark = css(this.root, "--dz-dark", "") === "1";
    pen.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    pen.clearRect(0, 0, this.canvas.width, this.canvas.height);
    const largest = this.about.largest[this.reduce];
    this.size = 1;
    while (this.size * this.scale * this.ratio < 1 && this.size < largest) this.size *= 2;
    const found = this.visible(this.size);
    this.view = new Set(found.map((t) => t.key));
    for (const t of found) this.tiles.get(t.key, this.reduce, this.size, t.row, t.column);
    this.limits(found);
    pen.save(); pen.beginPath(); pen.rect(x, y, w, h); pen.clip(); pen.imageSmoothingEnabled = false;
    pen.fillStyle = css(this.root, "--dz-hidden", "#e9ecf1"); this.fillMap(pen);
    for (const t of found) this.drawTile(pen, t);
    this.drawMarks(pen); pen.restore();
    this.drawAxis(pen, "keys"); this.drawAxis(pen, "queries");
    this.drawCurve(pen, "keys"); this.drawCurve(pen, "queries");
    this.drawKey();
    for (const name of ["mean", "max"]) this.buttons[name].setAttribute("aria-pressed", String(this.reduce === name));
    this.buttons.log.setAttribute("aria-pressed", String(this.log));
    const exact = this.size <= this.about.exact_to[this.reduce];
    const cell = this.size === 1 ? "each pair by itself" : `a cell is the ${this.reduce} of ${this.size} × ${this.size} pairs`;
    this.level.textContent = `${cell}, ${exact ? "computed from q and k now" : "from the record's pooled maps"}; shown within ${(100 * this.about.relative).toFixed(1)} %`;
    this.root.dataset.busy = String(this.tiles.busy);
    if (!this.cursor && !this.readout.dataset.told) { this.readout.dataset.told = "1"; this.tell(this.selected); }
  }
  fillMap(pen) {
    const { x, y } = this.area;
    pen.fillRect(x + (0 - this.x) * this.scale, y + (0 - this.y) * this.scale, this.about.keys * this.scale, this.about.queries * this.scale);
  }
  visible(size) {
    const step = this.about.side * size, { w, h } = this.area, found = [];
    const range = (from, wide, most) => [Math.max(0, Math.floor(from / step)), Math.min(Math.ceil(most / step), Math.ceil((from + wide) / step))];
    const [r0, r1] = range(this.y, h / this.scale, this.about.queries), [c0, c1] = range(this.x, w / this.scale, this.about.keys);
    for (let row = r0; row < r1; row++) for (let column = c0; column < c1; column++) found.push({ key: `${this.reduce}/${size}/${row}/${column}`, row, column, size });
    const middle = [(r0 + r1 - 1) / 2, (c0 + c1 - 1) / 2], far = (t) => Math.hypot(t.row - middle[0], t.column - middle[1]);
    return found.sort((a, b) => far(b) - far(a)); /* the middle is asked for last, so it comes first */
  }
  /* The scale ends at the weight that all but one in a thousand of the visible cells stay below. */
  limits(found) {
    const count = new Float64Array(256);
    let total = 0;
    for (const t of found) { const tile = this.tiles.has(t.key); if (tile) for (let c = 1; c < 256; c++) { count[c] += tile.count[c]; total += tile.count[c]; } }
    let top = 255, above = 0;
    while (top > 2 && above + count[top] <= total / 1000) above += count[top--];
    const bottom = this.log ? Math.max(1, top - Math.round(DECADES * Math.log2(10) * this.about.per_octave)) : null;
    const id = `${top}/${bottom}/${this.dark}`;
    if (!total || id === this.limitId) return;
    this.limitId = id; this.top = top; this.bottom = bottom; this.paint += 1; this.lut = new Uint32Array(256);
    for (let c = 1; c < 256; c++) this.lut[c] = this.colour(this.part(c));
  }
  part(code) {
    if (this.bottom !== null) return clamp((code - this.bottom) / Math.max(1, this.top - this.bottom), 0, 1);
    return code <= 1 ? 0 : clamp(2 ** ((code - this.top) / this.about.per_octave), 0, 1);
  }
  colour(part) {
    const at = this.dark ? 1 - part : part, stops = this.about.scale;
    let i = 1;
    while (i < stops.length - 1 && stops[i][0] < at) i++;
    const [low, a] = stops[i - 1], [high, b] = stops[i], t = clamp((at - low) / (high - low), 0, 1);
    const rgb = [1, 3, 5].map((k) => Math.round(parseInt(a.slice(k, k + 2), 16) * (1 - t) + parseInt(b.slice(k, k + 2), 16) * t));
    return (255 << 24 | rgb[2] << 16 | rgb[1] << 8 | rgb[0]) >>> 0;
  }
  painted(tile) {
    if (tile.painted !== this.paint && this.lut) {
      const pen = tile.canvas.getContext("2d"), image = pen.createImageData(tile.width, tile.height), to = new Uint32Array(image.data.buffer);
      for (let i = 0; i < to.length; i++) to[i] = this.lut[tile.codes[i]];
      pen.putImageData(image, 0, 0);
      tile.painted = this.paint;
    }
    return tile.canvas;
  }
  drawTile(pen, t) {
    const side = this.about.side, left = this.area.x + (t.column * side * t.size - this.x) * this.scale, top = this.area.y + (t.row * side * t.size - this.y) * this.scale;
    for (let size = t.size, up = 1; size <= this.about.largest[this.reduce]; size *= 2, up *= 2) {
      const row = Math.floor(t.row / up), column = Math.floor(t.column / up), tile = this.tiles.has(`${this.reduce}/${size}/${row}/${column}`);
      if (!tile) continue;
      const part = side / up, sx = (t.column - column * up) * part, sy = (t.row - row * up) * part;
      const sw = Math.min(part, tile.width - sx), sh = Math.min(part, tile.height - sy), k = up * t.size * this.scale;
      if (sw > 0 && sh > 0) pen.drawImage(this.painted(tile), sx, sy, sw, sh, left, top, sw * k, sh * k);
      return;
    }
  }
  drawMarks(pen) {
    const { x, y, w, h } = this.area, mark = (place, full) => {
      const [px, py] = this.pixel(place), r = Math.max(this.scale, 7) / 2;
      pen.strokeStyle = full ? this.accent : this.ink; pen.lineWidth = full ? 2 : 1;
      pen.globalAlpha = full ? 1 : 0.55;
      if (!full) { pen.beginPath(); pen.moveTo(x, py); pen.lineTo(x + w, py); pen.moveTo(px, y); pen.lineTo(px, y + h); pen.stroke(); }
      pen.globalAlpha = 1; pen.strokeRect(px - r, py - r, 2 * r, 2 * r);
    };
    if (this.selected) mark(this.selected, true);
    if (this.cursor) mark(this.cursor, false);
  }
  drawAxis(pen, side) {
    const keys = side === "keys", { x, y, w, h } = this.area, from = keys ? this.x : this.y, long = keys ? w : h, most = this.about[side];
    pen.fillStyle = this.muted; pen.font = `${this.scale >= 12 ? 12 : 11}px system-ui, sans-serif`; pen.textBaseline = "middle";
    const first = clamp(Math.floor(from), 0, most - 1), last = clamp(Math.ceil(from + long / this.scale), 1, most), now = (this.cursor ?? this.selected ?? [])[keys ? 1 : 0];
    const put = (at, text, strong) => {
      const p = (keys ? x : y) + (at + 0.5 - from) * this.scale;
      if (p < (keys ? x : y) - 1 || p > (keys ? x + w : y + h) + 1) return;
      pen.save(); pen.fillStyle = strong ? this.ink : this.muted; if (strong) pen.font = `600 ${pen.font}`;
      if (keys) { pen.translate(p, y - BAND - 5); pen.rotate(this.scale >= 12 ? -Math.PI / 3 : 0); pen.textAlign = this.scale >= 12 ? "left" : "center"; pen.fillText(text, 0, 0); }
      else { pen.textAlign = "right"; pen.fillText(text, x - 6, p); }
      pen.restore();
    };
    if (this.scale >= 12) {
      for (let block = Math.floor(first / 1024); block <= Math.floor((last - 1) / 1024); block++) this.words.get(`${side}/${block}`, side, block * 1024, Math.min(most, (block + 1) * 1024));
      for (let at = first; at < last; at++) { const t = this.text(side, at); if (t !== null) put(at, shown(t).slice(0, 11), at === now); }
    } else {
      const least = (keys ? 70 : 34) / this.scale, unit = 10 ** Math.floor(Math.log10(least)), step = Math.max(1, [1, 2, 5, 10].map((n) => n * unit).find((n) => n >= least));
      for (let at = Math.max(0, Math.ceil(from / step) * step); at < last; at += step) put(at, at.toLocaleString("en"), false);
    }
    pen.fillStyle = this.ink; pen.font = "600 12px system-ui, sans-serif";
    if (keys) { pen.textAlign = "left"; pen.fillText("keys (looked at) →", x, 9); } else { pen.textAlign = "left"; pen.fillText("queries ↓", 4, y - 12); }
  }
  drawCurve(pen, side) {
    const curve = this.about.curves[side];
    if (!curve) return;
    const keys = side === "keys", { x, y, h } = this.area, step = this.about.side * this.size, from = keys ? this.x : this.y, w = Math.min(this.area.w, (this.about.keys - this.x) * this.scale), long = keys ? w : h, values = [];
    for (let block = Math.max(0, Math.floor(from / step)); block * step < Math.min(this.about[side], from + long / this.scale); block++) {
      const held = this.curves.get(`${side}/${this.size}/${block}`, side, this.size, block).value;
      if (held) held.forEach((v, i) => { const at = block * step + i * this.size; if (Number.isFinite(v) && at + this.size > from && at < from + long / this.scale) values.push([at, v]); });
    }
    if (!values.length) return;
    const top = Math.max(...values.map(([, v]) => v)) || 1, low = keys ? Math.min(...values.map(([, v]) => v)) : 0;
    const part = (v) => keys && low > 0 ? Math.log(v / low * 1.3) / Math.log(top / low * 1.3 + 1e-9) : v / top; /* a sink receives a thousand times the rest */
    pen.save(); pen.beginPath(); if (keys) pen.rect(x, y - BAND, w, BAND - 3); else pen.rect(x + w + 4, y, EDGE, h); pen.clip();
    pen.fillStyle = css(this.root, "--accent", "#1f6fb5"); pen.globalAlpha = 0.75;
    for (const [at, v] of values) {
      const p = (keys ? x : y) + (at - from) * this.scale, thick = Math.max(1, this.size * this.scale - (this.size * this.scale > 4 ? 1 : 0)), long_ = clamp(part(v), 0, 1) * (keys ? BAND - 6 : EDGE - 10);
      if (keys) pen.fillRect(p, y - 3 - long_, thick, long_); else pen.fillRect(x + w + 5, p, long_, thick);
    }
    pen.restore(); pen.fillStyle = this.muted; pen.font = "11px system-ui, sans-serif"; pen.textBaseline = "middle";
    const words = `${curve.name.replace(/_/g, " ")} ≤ ${top.toPrecision(2)} ${curve.unit}${keys && low > 0 ? " (log)" : ""}`;
    if (keys) { pen.textAlign = "left"; pen.fillText(words, x + 140, 9); }
    else { pen.save(); pen.textAlign = "left"; pen.translate(x + w + EDGE - 4, y + 4); pen.rotate(Math.PI / 2); pen.fillText(words, 0, 0); pen.restore(); }
  }
  drawKey() {
    if (!this.lut || this.keyId === this.limitId) return;
    this.keyId = this.limitId;
    const pen = this.key.getContext("2d");
    for (let i = 0; i < this.key.width; i++) { const c = this.colour(i / (this.key.width - 1)); pen.fillStyle = `rgb(${c & 255} ${c >> 8 & 255} ${c >> 16 & 255})`; pen.fillRect(i, 0, 1, this.key.height); }
    const weight = (code) => said(2 ** ((code - 255) / this.about.per_octave));
    this.keyWords.textContent = `${this.bottom === null ? "0" : "≤ " + weight(this.bottom)} – ≥ ${weight(this.top)} weight${this.log ? ", log" : ""}; grey: hidden by the rules`;
  }
  destroy() { this.gone = true; this.watch?.disconnect(); clearTimeout(this.later); clearTimeout(this.asking); cancelAnimationFrame(this.frame); this.root.replaceChildren(); }
}

/* The source that a server answers: `query` names the map, as "record=…&layer=…&head=…". */
export function httpSource(base, query) {
  const get = async (what, more) => {
    const answer = await fetch(`${base}/${what}?${query}&${new URLSearchParams(more)}`);
    if (!answer.ok) { let said = `${answer.status}`; try { said = (await answer.json()).error || said; } catch { /* no words */ } throw new Error(said); }
    return answer;
  };
  return {
    about: async () => (await get("about", {})).json(),
    tile: async (reduce, size, row, column) => (await get("tile.png", { reduce, size, row, column })).blob(),
    cell: async (q, k) => (await get("cell", { q, k })).json(),
    curve: async (side, size, block) => new Float32Array(await (await get("curve", { side, size, block })).arrayBuffer()),
    texts: async (side, first, last) => (await get("texts", { side, first, last })).json(),
  };
}
