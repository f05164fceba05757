/* Puts a deep zoom into each `.deepzoom-place`; its attributes name the map, the selection goes through `probe.select`. */
(function () {
  "use strict";
  const mounted = new Map();
  let library = null;
  const load = () => (library = library || import("/_zoom/deepzoom.js"));

  async function mount(place) {
    const { DeepZoom, httpSource } = await load();
    if (!place.isConnected || mounted.has(place)) return;
    const { map, stamp, ...options } = JSON.parse(place.dataset.map);
    const query = new URLSearchParams({ ...map, v: stamp }).toString();
    const zoom = new DeepZoom(place, httpSource("/_zoom", query), {
      ...options,
      onselect: (chosen) => window.probe.select(chosen),
      onregion: (region) => window.probe.select({ region: region || null }),
    });
    mounted.set(place, zoom);
    place.zoom = zoom;
  }

  new MutationObserver(() => {
    for (const [place, zoom] of mounted) if (!place.isConnected) { zoom.destroy(); mounted.delete(place); }
    for (const place of document.querySelectorAll(".deepzoom-place")) if (!mounted.has(place)) mount(place);
  }).observe(document.documentElement, { childList: true, subtree: true });
  new MutationObserver(() => mounted.forEach((zoom) => { zoom.limitId = null; zoom.keyId = null; zoom.draw(); }))
    .observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme", "class"] });

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-zoom-picture]");
    const zoom = button && [...mounted.values()][0];
    if (!zoom) return;
    zoom.canvas.toBlob((blob) => {
      const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: "attention-map.png" });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    });
  });

  /* A choice made elsewhere shows in the map. */
  function followed(selection) {
    for (const zoom of mounted.values()) {
      const { query, key } = selection || {};
      if (query === undefined || key === undefined) continue;
      const now = zoom.selected || [];
      if (now[0] === +query && now[1] === +key) continue;
      zoom.selected = [+query, +key];
      zoom.draw();
      zoom.tell(zoom.selected);
    }
  }
  window.dash_clientside = window.dash_clientside || {};
  window.dash_clientside.deepzoom = { followed };
})();
