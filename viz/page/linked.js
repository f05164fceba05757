(function () {
  const data = JSON.parse(document.getElementById("linked-data").textContent);
  const plot = document.getElementById("linked");
  const gallery = document.getElementById("chosen");
  const said = document.getElementById("chosen-words");
  const picture = data.picture ? Object.assign(new Image(), { src: data.picture }) : null;
  let busy = false;

  function show(points) {
    busy = true;
    const size = data.size;
    const path = points.map(i => `M${data.x[i]} ${data.y[i]}h${size}v${size}h${-size}Z`).join("").replace(
      /M([-\d.]+) ([-\d.]+)h([-\d.]+)v([-\d.]+)h([-\d.]+)Z/g,
      (_, x, y, w) => `M${x},${y}L${+x + +w},${y}L${+x + +w},${+y + +w}L${x},${+y + +w}Z`);
    const shape = { type: "path", path: path, xref: "x2", yref: "y2", fillcolor: data.colour, opacity: 0.55,
      line: { color: data.colour, width: 2 } };
    const done = Plotly.update(plot, { selectedpoints: [points] }, { shapes: points.length ? [shape] : [] }, [data.map]);
    const mass = points.reduce((sum, i) => sum + data.attention[i], 0) / data.total;
    said.textContent = points.length
      ? `${points.length} chosen patches hold ${(100 * mass).toFixed(1)} % of the attention`
      : "Nothing chosen: draw a lasso in either panel";
    draw(points);
    Promise.resolve(done).then(() => { busy = false; });
  }

  function draw(points) {
    gallery.replaceChildren();
    if (!picture) return;
    const strongest = [...points].sort((a, b) => data.attention[b] - data.attention[a]).slice(0, data.shown);
    for (const i of strongest) {
      const canvas = Object.assign(document.createElement("canvas"), { width: 84, height: 84 });
      const side = data.size / data.downsample;
      canvas.getContext("2d").drawImage(picture, data.x[i] / data.downsample, data.y[i] / data.downsample, side, side, 0, 0, 84, 84);
      const item = document.createElement("figure");
      const words = document.createElement("figcaption");
      words.textContent = `${data.attention[i].toFixed(1)}×`;
      item.append(canvas, words);
      gallery.append(item);
    }
  }

  function chosen(event) {
    if (busy) return;
    if (!event || !event.points) { show([]); return; }
    show([...new Set(event.points.filter(p => p.customdata !== undefined).map(p => +p.customdata))]);
  }

  plot.on("plotly_selected", chosen);
  plot.on("plotly_deselect", () => show([]));
  const begin = () => show(data.first);
  if (picture && !picture.complete) picture.onload = begin; else begin();
})();
