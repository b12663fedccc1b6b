"use strict";
(() => {
  const data = id => {
    const found = document.getElementById(id);
    return found ? JSON.parse(found.textContent) : null;
  };
  const get = id => document.getElementById(id);
  const words = (n, one) => n.toLocaleString("en-US") + " " + one + (n === 1 ? "" : "s");

  // Whole numbers of two bytes, lowest byte first.
  const MISSING = 65535;
  const codes = text => {
    const raw = atob(text), out = new Uint16Array(raw.length / 2);
    for (let i = 0; i < out.length; i++) out[i] = raw.charCodeAt(2 * i) | (raw.charCodeAt(2 * i + 1) << 8);
    return out;
  };

  function drawMap(map) {
    const canvas = get("map-canvas"), tip = get("map-tip"), legend = get("map-legend"), choice = get("map-color");
    const pen = canvas.getContext("2d");
    const x = codes(map.x), y = codes(map.y);
    const columns = map.columns.map(c => ({ ...c, codes: codes(c.codes) }));
    let column = columns[0] || null, alone = -1, width = 0, height = 0, near = -1;
    const PAD = 12;
    const left = v => PAD + v / 65534 * (width - 2 * PAD);
    const top = v => height - PAD - v / 65534 * (height - 2 * PAD);
    const colorOf = (c, code) => code === MISSING ? "#d0d4d9"
      : c.kind === "number" ? map.scale[Math.round(code / 1000 * (map.scale.length - 1))] : c.colors[code];

    function draw() {
      const ratio = Math.min(window.devicePixelRatio || 1, 3);
      width = canvas.clientWidth;
      height = Math.round(Math.min(Math.max(width * map.aspect, 240), 620));
      canvas.style.height = height + "px";
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
      pen.setTransform(ratio, 0, 0, ratio, 0, 0);
      pen.clearRect(0, 0, width, height);
      const size = Math.min(Math.max(160 / Math.sqrt(map.n), 1.2), 3.6) * Math.min(1, 0.55 + width / 1600);
      const front = [], back = [];
      for (let i = 0; i < map.n; i++) {
        const code = column ? column.codes[i] : MISSING;
        (code === MISSING || (alone >= 0 && code !== alone) ? back : front).push(i);
      }
      pen.globalAlpha = 0.55;
      for (const i of back) dot(i, size, "#d0d4d9");
      pen.globalAlpha = 0.9;
      for (const i of front) dot(i, size, column ? colorOf(column, column.codes[i]) : "#7b8794");
      pen.globalAlpha = 1;
      map.paths.forEach(path => line(path, map.paths.length > 8));
      map.paths.forEach(path => ends(path, map.paths.length > 8));
      if (near >= 0) {
        pen.beginPath();
        pen.arc(left(x[near]), top(y[near]), size + 3, 0, 7);
        pen.lineWidth = 2;
        pen.strokeStyle = "#000";
        pen.stroke();
      }
    }
    function dot(i, size, color) {
      pen.fillStyle = color;
      pen.beginPath();
      pen.arc(left(x[i]), top(y[i]), size, 0, 7);
      pen.fill();
    }
    function line(path, many) {
      for (const [color, wide] of [["#ffffffcc", many ? 2.4 : 4.5], ["#111", many ? 1 : 2]]) {
        pen.beginPath();
        for (let i = 0; i < path.length; i += 2) pen.lineTo(left(path[i]), top(path[i + 1]));
        pen.lineWidth = wide;
        pen.lineJoin = "round";
        pen.strokeStyle = color;
        pen.stroke();
      }
    }
    function ends(path, many) {
      const n = path.length;
      for (const [at, fill] of [[0, "#fff"], [n - 2, "#111"]]) {
        pen.beginPath();
        pen.arc(left(path[at]), top(path[at + 1]), many ? 2.2 : 4.5, 0, 7);
        pen.fillStyle = fill;
        pen.fill();
        pen.lineWidth = many ? 0.8 : 1.3;
        pen.strokeStyle = "#111";
        pen.stroke();
      }
    }
    function showLegend() {
      legend.replaceChildren();
      if (!column) return;
      if (column.kind === "number") {
        const item = document.createElement("li"), bar = document.createElement("i");
        item.className = "scale";
        bar.style.background = `linear-gradient(90deg, ${map.scale.join(",")})`;
        item.append("0 (start)", bar, "1 (end); gray: not on the path");
        legend.append(item);
        return;
      }
      column.levels.forEach((level, code) => {
        if (!column.sizes[code]) return;
        const item = document.createElement("li"), button = document.createElement("button");
        const spot = document.createElement("i");
        spot.style.background = column.colors[code];
        button.type = "button";
        button.append(spot, `${level} (${column.sizes[code].toLocaleString("en-US")})`);
        button.setAttribute("aria-pressed", String(alone === code));
        button.addEventListener("click", () => {
          alone = alone === code ? -1 : code;
          showLegend();
          draw();
        });
        item.append(button);
        legend.append(item);
      });
    }
    function point(event) {
      const box = canvas.getBoundingClientRect();
      const px = event.clientX - box.left, py = event.clientY - box.top;
      let best = -1, least = 14 * 14;
      for (let i = 0; i < map.n; i++) {
        if (alone >= 0 && column.codes[i] !== alone) continue;
        const dx = left(x[i]) - px, dy = top(y[i]) - py, d = dx * dx + dy * dy;
        if (d < least) { least = d; best = i; }
      }
      if (best !== near) { near = best; draw(); }
      tip.hidden = best < 0;
      if (best < 0) return;
      tip.replaceChildren();
      const name = document.createElement("b");
      name.textContent = map.names[best];
      tip.append(name);
      for (const c of columns) {
        const code = c.codes[best];
        if (code === MISSING) continue;
        tip.append(document.createElement("br"), `${c.name}: ${c.kind === "number" ? (code / 1000).toFixed(2) : c.levels[code]}`);
      }
      const at = left(x[best]), up = top(y[best]);
      tip.style.left = Math.max(4, Math.min(at + 12, width - tip.offsetWidth - 4)) + "px";
      tip.style.top = (up + 14 + tip.offsetHeight > height ? Math.max(4, up - 14 - tip.offsetHeight) : up + 14) + "px";
    }
    columns.forEach((c, i) => choice.append(new Option(c.name, i)));
    choice.addEventListener("change", () => {
      column = columns[choice.value];
      alone = -1;
      showLegend();
      draw();
    });
    canvas.addEventListener("pointermove", point);
    canvas.addEventListener("pointerdown", point);
    canvas.addEventListener("pointerleave", () => { near = -1; tip.hidden = true; draw(); });
    get("map-count").textContent = words(map.n, "cell") + (map.paths.length ? ", " + words(map.paths.length, "path") : "");
    if (!columns.length) choice.closest("label").hidden = true;
    showLegend();
    draw();
    window.addEventListener("resize", draw);
    window.addEventListener("beforeprint", () => { near = -1; tip.hidden = true; draw(); });
  }

  function sortGenes(genes) {
    const table = get("gene-table"), body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
    const search = get("gene-search"), shape = get("gene-shape"), sure = get("gene-sure");
    const STEP = 100;
    let most = 25, by = -1, up = true;
    const shapeColumn = genes.columns.find(c => c.key === "shape");
    const number = v => v === null ? "–" : v === 0 ? "0"
      : Math.abs(v) >= 1e6 || Math.abs(v) < 1e-3 ? v.toExponential(1).replace(/e([+-])(\d)$/, "e$10$2")
      : Math.abs(v) >= 1000 ? Math.round(v).toLocaleString("en-US") : String(Number(v.toPrecision(3)));

    const text = (v, column) => column.kind === "text" ? v
      : column.kind === "fixed" && v !== null ? v.toFixed(2) : number(v);

    function chosen() {
      const wanted = search.value.trim().toLowerCase().split(/[\s,;]+/).filter(Boolean);
      let rows = genes.rows.filter(row =>
        (!wanted.length || wanted.some(w => row[0].toLowerCase().includes(w)))
        && (!shape.value || row[shapeColumn.at] === shape.value)
        && (!sure.checked || (row[genes.fdr] !== null && row[genes.fdr] <= 0.05)));
      if (by >= 0) {
        const at = genes.columns[by].at, sign = up ? 1 : -1;
        // What is missing comes last, whatever the direction.
        rows = [...rows].sort((a, b) => {
          const p = a[at], q = b[at];
          if (p === null || q === null) return (p === null) - (q === null);
          return sign * (typeof p === "string" ? p.localeCompare(q, "en", { numeric: true }) : p - q);
        });
      }
      return rows;
    }
    function show() {
      const rows = chosen();
      body.replaceChildren(...rows.slice(0, most).map(row => {
        const line = document.createElement("tr");
        genes.columns.forEach((column, i) => {
          const cell = document.createElement(i ? "td" : "th");
          if (!i) cell.scope = "row";
          const value = row[column.at];
          cell.textContent = text(value, column);
          if (column.low !== undefined && value !== null && row[column.low] !== null) {
            const interval = document.createElement("span");
            interval.className = "interval";
            interval.textContent = `${text(row[column.low], column)} to ${text(row[column.high], column)}`;
            cell.append(" ", interval);
          }
          line.append(cell);
        });
        return line;
      }));
      get("gene-more").hidden = rows.length <= most;
      get("gene-count").textContent = `${Math.min(most, rows.length).toLocaleString("en-US")} of ${words(rows.length, "gene")}`;
      heads.forEach((head, i) => head.setAttribute("aria-sort", i !== by ? "none" : up ? "ascending" : "descending"));
    }
    function sortBy(i) {
      up = by === i ? !up : true;
      by = i;
      show();
    }
    heads.forEach((head, i) => {
      head.tabIndex = 0;
      head.addEventListener("click", () => sortBy(i));
      head.addEventListener("keydown", event => {
        if (event.key === "Enter" || event.key === " ") { event.preventDefault(); sortBy(i); }
      });
    });
    const again = () => { most = 25; show(); };
    search.addEventListener("input", again);
    shape.addEventListener("change", again);
    sure.addEventListener("change", again);
    get("gene-more").addEventListener("click", () => { most += STEP; show(); });
    get("gene-csv").addEventListener("click", () => {
      const quote = v => v === null ? "" : /[",\n\r]/.test(String(v)) ? `"${String(v).replaceAll('"', '""')}"` : String(v);
      const head = genes.columns.flatMap(c => c.low === undefined ? [c.key] : [c.key, c.key + "_low", c.key + "_high"]);
      const line = row => genes.columns.flatMap(c => c.low === undefined ? [row[c.at]] : [row[c.at], row[c.low], row[c.high]]);
      const lines = [head, ...chosen().map(line)].map(row => row.map(quote).join(",")).join("\r\n");
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob(["\ufeff", lines], { type: "text/csv" }));
      link.download = "genes.csv";
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    });
    if (shapeColumn) {
      [...new Set(genes.rows.map(row => row[shapeColumn.at]))].sort().forEach(name => shape.append(new Option(name, name)));
    } else {
      shape.closest("label").hidden = true;
    }
    sure.closest("label").hidden = genes.fdr === null;
    get("gene-controls").hidden = false;
    show();
  }

  const map = data("map-data"), genes = data("gene-data");
  if (map) drawMap(map);
  if (genes) sortGenes(genes);
})();
