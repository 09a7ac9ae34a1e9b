"use strict";
// The heads: filters, what hovering tells, the head that is opened, galleries. Text from data only ever becomes text.
(async () => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const bytes = await unpacked(data.blob);
  const scale = data.scale.match(/../g).map((two) => parseInt(two, 16));
  const border = data.border.match(/[0-9a-f]{2}/gi).map((two) => parseInt(two, 16));
  const SHOWN_AT_FIRST = 8;
  const percent = (share) => (100 * share).toFixed(1) + "%";
  const two = (number) => number.toFixed(2);
  const colourOf = (pattern) => "var(--" + data.patterns[pattern].name + ")";

  async function unpacked(packed) {
    const raw = Uint8Array.from(atob(packed), (c) => c.charCodeAt(0));
    const stream = new Blob([raw]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  function el(tag, options = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(options)) {
      if (name === "style") for (const [key, one] of Object.entries(value)) node.style.setProperty(key, one);
      else if (name in node) node[name] = value;
      else node.setAttribute(name, value);
    }
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  }

  for (const view of data.views) {
    view.byPlace = {};
    for (const head of view.heads) {
      head.counts = data.patterns.map((pattern) => head["count_" + pattern.name]);
      (view.byPlace[head.layer + "." + head.head] ??= {})[head.kind] = head;
    }
    for (const map of view.maps) map.of = view.byPlace[map.layer + "." + map.head][map.kind];
  }

  // ---- drawing

  function cellsOf(map) {
    return bytes.subarray(map.at, map.at + map.side * map.side);
  }

  function picture(map) {
    const n = map.side;
    const image = new ImageData(n, n);
    cellsOf(map).forEach((value, i) => {
      image.data.set(scale.slice(3 * value, 3 * value + 3), 4 * i);
      image.data[4 * i + 3] = 255;
    });
    const canvas = el("canvas", { width: n, height: n });
    canvas.getContext("2d").putImageData(image, 0, 0);
    return canvas;
  }

  function paint(pen, map, left, top, side, line) {
    pen.imageSmoothingEnabled = false;
    pen.drawImage(picture(map), left, top, side, side);
    const { tokens, borders } = data.inputs[map.input];
    pen.fillStyle = data.border;
    for (const at of borders) {
      const place = Math.round(((at + 1) / tokens.length) * side);
      if (at + 1 >= tokens.length) continue;
      pen.fillRect(left + place - line / 2, top, line, side);
      pen.fillRect(left, top + place - line / 2, side, line);
    }
  }

  function thumbnail(map) {
    const cell = Math.ceil(240 / map.side);
    const side = cell * map.side;
    const canvas = el("canvas", { width: side, height: side });
    paint(canvas.getContext("2d"), map, 0, 0, side, 1);
    return canvas;
  }

  const short = (token) => (token.length > 14 ? token.slice(0, 13) + "…" : token);

  // The map with its tokens; as many labels as fit, separators first. Returns where the cells lie.
  function drawLarge(canvas, map, mark) {
    const ratio = devicePixelRatio || 1;
    const size = canvas.clientWidth;
    if (!size) return null;
    canvas.width = canvas.height = Math.round(size * ratio);
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const style = getComputedStyle(canvas);
    const { tokens, borders } = data.inputs[map.input];
    const n = tokens.length;
    const words = tokens.map(short);
    let font = Math.max(7.5, Math.min(11, (size * 0.8) / n));
    const family = style.fontFamily;
    pen.font = font + "px " + family;
    const margin = Math.min(size * 0.28, Math.max(...words.map((word) => pen.measureText(word).width)) + 5);
    const side = size - margin - 1;
    font = Math.max(7.5, Math.min(11, side / n));
    pen.font = font + "px " + family;
    paint(pen, map, margin, margin, side, 1.5);
    const pitch = font * 0.93;
    const order = [...borders, ...tokens.keys()];
    const taken = [];
    pen.textBaseline = "middle";
    for (const i of order) {
      const at = ((i + 0.5) / n) * side;
      if (taken.some((other) => Math.abs(other - at) < pitch)) continue;
      taken.push(at);
      pen.fillStyle = borders.includes(i) ? data.border : style.color;
      if (borders.includes(i) && !isDark()) pen.fillStyle = data.borderText;
      pen.textAlign = "right";
      pen.fillText(words[i], margin - 4, margin + at, margin - 4);
      pen.save();
      pen.translate(margin + at, margin - 4);
      pen.rotate(-Math.PI / 2);
      pen.textAlign = "left";
      pen.fillText(words[i], 0, 0, margin - 4);
      pen.restore();
    }
    const cell = side / map.side;
    if (mark) {
      pen.strokeStyle = "#ffffff";
      pen.lineWidth = 2;
      pen.strokeRect(margin + mark.column * cell, margin + mark.row * cell, cell, cell);
      pen.strokeStyle = "#000000";
      pen.lineWidth = 1;
      pen.strokeRect(margin + mark.column * cell - 1, margin + mark.row * cell - 1, cell + 2, cell + 2);
    }
    return { margin, cell };
  }

  // Which tokens a cell stands for: one, or a few neighbours where a long map was averaged.
  function tokensOf(map, cell) {
    const { tokens } = data.inputs[map.input];
    const from = Math.floor((cell * tokens.length) / map.side);
    const to = Math.max(from + 1, Math.ceil(((cell + 1) * tokens.length) / map.side));
    return tokens.slice(from, to).join(" ");
  }

  function valueOfCell(map, row, column) {
    return ((cellsOf(map)[row * map.side + column] / 255) * map.peak).toPrecision(2);
  }

  function mapFigure(map) {
    const input = data.inputs[map.input];
    const title = data.patterns[map.pattern].title;
    const chosen = { sure: "the surest", drawn: "drawn at random", unsure: "among the least certain" };
    const why = map.why.map((one) => chosen[one]).join(", ");
    const probability = two(map.probabilities[map.pattern]);
    const words =
      map.kind + " map of layer " + map.layer + ", head " + map.head + ", " + title + " with probability " +
      probability + ", of example " + input.example + ": " + input.tokens.join(" ");
    const canvas = el("canvas", { tabIndex: 0, role: "img", "aria-label": words });
    const readout = el("p", { className: "readout quiet", role: "status" });
    let mark = null;
    let layout = null;
    const draw = () => (layout = drawLarge(canvas, map, mark) ?? layout);
    const point = (row, column) => {
      const last = map.side - 1;
      mark = { row: Math.max(0, Math.min(last, row)), column: Math.max(0, Math.min(last, column)) };
      draw();
      readout.replaceChildren(
        el("span", { className: "token" }, tokensOf(map, mark.row)), " attends to ",
        el("span", { className: "token" }, tokensOf(map, mark.column)), ": " + valueOfCell(map, mark.row, mark.column),
      );
    };
    canvas.addEventListener("pointermove", (event) => {
      if (!layout) return;
      const row = Math.floor((event.offsetY - layout.margin) / layout.cell);
      const column = Math.floor((event.offsetX - layout.margin) / layout.cell);
      if (row >= 0 && column >= 0 && row < map.side && column < map.side) point(row, column);
    });
    canvas.addEventListener("pointerleave", () => ((mark = null), readout.replaceChildren(), draw()));
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (!step) return;
      event.preventDefault();
      event.stopPropagation();
      point((mark?.row ?? 0) + (mark ? step[0] : 0), (mark?.column ?? 0) + (mark ? step[1] : 0));
    });
    const figure = el("figure", { className: "map" });
    const larger = el("button", { type: "button", className: "plain" }, "Larger");
    larger.setAttribute("aria-pressed", "false");
    larger.addEventListener("click", () => {
      const large = figure.classList.toggle("large");
      larger.setAttribute("aria-pressed", String(large));
      larger.textContent = large ? "Smaller" : "Larger";
    });
    new ResizeObserver(draw).observe(canvas);
    canvas.redraw = draw;
    figure.append(
      canvas,
      el(
        "figcaption", {},
        el("b", {}, "p = " + probability), " · " + why,
        el("span", { className: "quiet" }, " · example " + input.example + (input.source ? ", " + input.source : "")),
      ),
      el("div", { className: "map-tools" }, larger, asArray(map), strongest(map)),
      readout,
    );
    return figure;
  }

  // What numpy.load reads: the cells that the page has, float32, rows first. In the link itself, so that the page stays
  // one file that can be sent.
  function asArray(map) {
    const n = data.inputs[map.input].tokens.length;
    const about = "{'descr': '<f4', 'fortran_order': False, 'shape': (" + map.side + ", " + map.side + "), }";
    const start = Math.ceil((10 + about.length + 1) / 64) * 64;
    const file = new Uint8Array(start + 4 * map.side * map.side);
    const view = new DataView(file.buffer);
    const head = "\x93NUMPY\x01\0\0\0" + about.padEnd(start - 11) + "\n";
    for (let i = 0; i < start; i++) file[i] = head.charCodeAt(i);
    view.setUint16(8, start - 10, true);
    cellsOf(map).forEach((cell, i) => view.setFloat32(start + 4 * i, (cell / 255) * map.peak, true));
    let text = "";
    for (const byte of file) text += String.fromCharCode(byte);
    const source = data.inputs[map.input].source.replace(/[^\w.-]+/g, "-");
    const name = [source, map.kind, "layer", map.layer, "head", map.head, "example", data.inputs[map.input].example];
    const averaged = map.side < n ? ", averaged from " + n + " tokens a side to " + map.side : "";
    return el(
      "a",
      {
        href: "data:application/octet-stream;base64," + btoa(text),
        download: name.filter((part) => part !== "").join("-") + ".npy",
        title: "for numpy.load, to within 0.3% of the map's largest cell" + averaged,
      },
      ".npy",
    );
  }

  // The table behind the picture.
  function strongest(map) {
    const details = el("details", {}, el("summary", {}, "Strongest cells"));
    details.addEventListener("toggle", () => {
      if (!details.open || details.querySelector("table")) return;
      const cells = cellsOf(map);
      const order = [...cells.keys()].sort((a, b) => cells[b] - cells[a] || a - b).slice(0, 10);
      const head = el("tr", {}, ...["token", "attends to", "value"].map((word) => el("th", { scope: "col" }, word)));
      const body = order.map((i) => {
        const [row, column] = [Math.floor(i / map.side), i % map.side];
        return el(
          "tr", {},
          el("td", {}, el("span", { className: "token" }, tokensOf(map, row))),
          el("td", {}, el("span", { className: "token" }, tokensOf(map, column))),
          el("td", {}, valueOfCell(map, row, column)),
        );
      });
      details.append(el("table", {}, el("thead", {}, head), el("tbody", {}, ...body)));
    });
    return details;
  }

  function countRows(head) {
    const rows = head.counts.flatMap((count, i) => [
      el("span", {}, data.patterns[i].title),
      el("i", { style: { "--c": colourOf(i), width: (head.n ? (100 * count) / head.n : 0) + "%" } }),
      el("b", {}, String(count)),
    ]);
    if (head.count_empty) rows.push(el("span", {}, "zero in every cell"), el("i", { style: { width: "0" } }), el("b", {}, String(head.count_empty)));
    return rows;
  }

  // ---- one head

  const dialog = document.getElementById("head");
  let opened = null;

  function known(view, head) {
    const facts = [];
    if (view.seeds > 1 && "seeds_kept" in head) facts.push("kept under " + head.seeds_kept + " of " + view.seeds + " seeds");
    else if ("survives" in head) facts.push(head.survives ? "survives pruning" : "pruned");
    if (head.importance !== undefined && head.importance !== null) {
      const all = Object.values(view.byPlace).map((kinds) => Object.values(kinds)[0].importance);
      const rank = 1 + all.filter((other) => other > head.importance).length;
      facts.push("importance " + head.importance.toPrecision(3) + ", rank " + rank + " of " + all.length);
    }
    return facts.join(" · ");
  }

  function strip(view, head) {
    const [, heads] = view.shape;
    const start = view.labels[head.kind] + (head.layer * heads + head.head) * view.strip;
    const labels = bytes.subarray(start, start + view.strip);
    const titleOf = (label) => data.patterns[label]?.title ?? "zero in every cell";
    const cells = [...labels].map((label, i) =>
      el("i", {
        style: { "--c": label in data.patterns ? colourOf(label) : "var(--zero)" },
        title: view.tokens[i] + " tokens: " + titleOf(label),
      }),
    );
    const shown = view.strip < view.examples ? view.strip + " of its " + view.examples : "its " + view.examples;
    return el(
      "div", {},
      el("div", { className: "examples", role: "img", "aria-label": "Pattern of " + shown + " maps, from short to long inputs" }, ...cells),
      el(
        "div", { className: "axis quiet" },
        el("span", {}, view.tokens[0] + " tokens"),
        el("span", {}, shown + " maps by length of input"),
        el("span", {}, view.tokens.at(-1) + " tokens"),
      ),
    );
  }

  function side(view, head) {
    const pattern = data.patterns.findIndex((one) => one.name === head.dominant);
    const node = el(
      "section", { className: "side", "aria-label": head.kind + " maps" },
      el("h3", {}, head.kind === "raw" ? "Raw maps" : "Norm maps"),
      el(
        "p", { className: "quiet" },
        pattern < 0
          ? "all maps are zero in every cell, which is no pattern"
          : data.patterns[pattern].title + " in " + head.counts[pattern] + " of " + head.n + " maps (" + percent(head.dominant_share) + ")" +
          (head.self_agreement === null ? "" : ", two maps agree with probability " + two(head.self_agreement)),
      ),
      head.said ? el("ul", { className: "said" }, ...head.said.map((words) => el("li", {}, words))) : null,
      el("div", { className: "counts" }, ...countRows(head)),
      strip(view, head),
    );
    const maps = view.maps.filter((map) => map.of === head);
    const order = [...head.counts.keys()].sort((a, b) => head.counts[b] - head.counts[a]);
    for (const i of order) {
      const shown = maps.filter((map) => map.pattern === i);
      if (!shown.length) continue;
      const swatch = el("span", { className: "swatch", style: { background: colourOf(i), color: inkOf(i) }, "aria-hidden": "true" }, data.patterns[i].letter);
      node.append(
        el("h4", {}, swatch, data.patterns[i].title, el("span", { className: "quiet" }, head.counts[i] + " maps")),
        el("div", { className: "maps" }, ...shown.map(mapFigure)),
      );
    }
    return node;
  }

  const inkOf = (pattern) =>
    document.querySelector('.chip[data-pattern="' + data.patterns[pattern].name + '"] .swatch').style.color;

  function open(view, layer, head) {
    const kinds = view.byPlace[layer + "." + head];
    if (!kinds) return;
    opened = { view, layer, head };
    hideTip();
    const first = Object.values(kinds)[0];
    const title = document.getElementById("head-title");
    title.replaceChildren("Layer " + layer + ", head " + head, el("small", {}, [view.name, known(view, first)].filter(Boolean).join(" · ")));
    const body = document.getElementById("head-body");
    body.replaceChildren(...view.kinds.filter((kind) => kinds[kind]).map((kind) => side(view, kinds[kind])));
    if (!dialog.open) dialog.showModal();
    body.scrollTop = 0;
    title.focus();
    history.replaceState(null, "", "#head-" + data.views.indexOf(view) + "-" + layer + "-" + head);
  }

  function step(by) {
    const places = Object.keys(opened.view.byPlace);
    const at = places.indexOf(opened.layer + "." + opened.head);
    const [layer, head] = places[(at + by + places.length) % places.length].split(".");
    open(opened.view, +layer, +head);
  }

  document.getElementById("head-close").addEventListener("click", () => dialog.close());
  document.getElementById("head-previous").addEventListener("click", () => step(-1));
  document.getElementById("head-next").addEventListener("click", () => step(1));
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  dialog.addEventListener("close", () => {
    history.replaceState(null, "", location.pathname + location.search);
    const { view, layer, head } = opened;
    const at = '[data-layer="' + layer + '"][data-head="' + head + '"]';
    const back = lastFocus?.isConnected ? lastFocus : document.querySelector('table[data-view="' + data.views.indexOf(view) + '"] ' + at);
    back?.focus();
  });
  document.addEventListener("themechange", () => dialog.querySelectorAll(".map canvas").forEach((canvas) => canvas.redraw()));
  let lastFocus = null;

  // ---- grids

  const tip = document.getElementById("tip");

  function showTip(button, head) {
    const survival = known(data.views[button.closest("table").dataset.view], head);
    tip.replaceChildren(
      el("b", {}, "Layer " + head.layer + ", head " + head.head),
      head.kind + " maps of " + (head.n + head.count_empty) + " examples" + (survival ? ": " + survival : ""),
      el("div", { className: "counts" }, ...countRows(head)),
    );
    tip.hidden = false;
    const box = button.getBoundingClientRect();
    const size = tip.getBoundingClientRect();
    const x = Math.min(innerWidth - size.width - 8, Math.max(8, box.left + box.width / 2 - size.width / 2));
    const y = box.bottom + size.height + 10 > innerHeight ? box.top - size.height - 8 : box.bottom + 8;
    tip.style.left = x + "px";
    tip.style.top = Math.max(8, y) + "px";
  }

  function hideTip() {
    tip.hidden = true;
    document.querySelectorAll(".twin").forEach((cell) => cell.classList.remove("twin"));
  }

  for (const table of document.querySelectorAll("table.heads")) {
    const view = data.views[table.dataset.view];
    const cells = [...table.querySelectorAll("button.cell")];
    const at = {};
    cells.forEach((cell, i) => {
      const { layer, head } = cell.dataset;
      at[layer + "." + head] = cell;
      cell.tabIndex = i ? -1 : 0;
      const record = view.byPlace[layer + "." + head][table.dataset.kind];
      const show = () => {
        hideTip();
        showTip(cell, record);
        for (const twin of table.closest(".view").querySelectorAll('[data-layer="' + layer + '"][data-head="' + head + '"]'))
          if (twin !== cell) twin.classList.add("twin");
      };
      cell.addEventListener("pointerenter", show);
      cell.addEventListener("focus", () => cell.matches(":focus-visible") && show());
      cell.addEventListener("pointerleave", hideTip);
      cell.addEventListener("blur", hideTip);
      cell.addEventListener("click", () => ((lastFocus = cell), open(view, +layer, +head)));
    });
    table.addEventListener("keydown", (event) => {
      const by = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (event.key === "Escape") hideTip();
      const cell = event.target.closest("button.cell");
      if (!cell || !(by || event.key === "Home" || event.key === "End")) return;
      event.preventDefault();
      let [layer, head] = [+cell.dataset.layer, +cell.dataset.head];
      let next = null;
      if (event.key === "Home" || event.key === "End") {
        const row = cells.filter((other) => other.dataset.layer === cell.dataset.layer);
        next = row.at(event.key === "Home" ? 0 : -1);
      }
      while (by && !next) {
        [layer, head] = [layer + by[0], head + by[1]];
        if (layer < 0 || head < 0 || layer >= view.shape[0] || head >= view.shape[1]) return;
        next = at[layer + "." + head];
      }
      for (const other of cells) other.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    });
  }
  addEventListener("scroll", hideTip, { passive: true });

  // ---- colours

  const colour = document.getElementById("colour");

  // By the dominant pattern as the page has it, or by a measurement: the larger, the stronger the colour.
  function paintGrids() {
    const name = colour.value;
    const title = colour.selectedOptions[0].textContent;
    for (const view of data.views) {
      const all = view.heads.map((head) => head.measured?.[name] ?? 0);
      const most = name === "writes" ? Math.max(...all) || 1 : 1;
      for (const cell of document.querySelectorAll('table.heads[data-view="' + data.views.indexOf(view) + '"] button.cell')) {
        cell.plain ??= { style: cell.style.cssText, letter: cell.dataset.letter, label: cell.ariaLabel };
        cell.style.cssText = cell.plain.style;
        cell.dataset.letter = cell.plain.letter;
        cell.ariaLabel = cell.plain.label;
        if (!name) continue;
        const { layer, head } = cell.dataset;
        const value = view.byPlace[layer + "." + head][cell.closest("table").dataset.kind].measured?.[name] ?? null;
        const strength = (value ?? 0) / most;
        const inks = strength > 0.5 ? ["#fff", "#000"] : ["#000", "#fff"];
        for (const [key, one] of [["--c", "var(--ink)"], ["--s", strength], ["--i", inks[0]], ["--j", inks[1]]])
          cell.style.setProperty(key, one);
        cell.dataset.letter = value === null ? "" : Math.round(100 * value);
        cell.ariaLabel = "layer " + layer + ", head " + head + ": " + title + (value === null ? " unknown" : " " + percent(value));
      }
    }
  }
  if (colour) colour.addEventListener("change", paintGrids);

  // ---- filters and galleries

  const filters = document.getElementById("filters");
  const chips = [...filters.querySelectorAll(".chip")];
  const choice = (name) => document.getElementById("filter-" + name)?.value ?? "";

  function fits(head) {
    const pressed = chips.filter((chip) => chip.ariaPressed === "true").map((chip) => chip.dataset.pattern);
    return (
      (!pressed.length || pressed.includes(head.dominant)) &&
      (!choice("layer") || +choice("layer") === head.layer) &&
      (!choice("survives") || String(head.survives) === choice("survives")) &&
      (!choice("kind") || choice("kind") === head.kind)
    );
  }

  // In a gallery it is the map's own pattern that counts, not the one its head shows most.
  function fitsMap(map) {
    const pressed = chips.filter((chip) => chip.ariaPressed === "true").map((chip) => chip.dataset.pattern);
    return (
      (!pressed.length || pressed.includes(data.patterns[map.pattern].name)) && fits({ ...map.of, dominant: pressed[0] })
    );
  }

  function thumb(view, map, words) {
    const button = el(
      "button", { type: "button", className: "thumb" },
      thumbnail(map),
      el("span", {}, el("b", {}, "L" + map.layer + " H" + map.head), " " + map.kind),
      el("span", { className: "quiet" }, words),
      el("span", { className: "sr" }, "open layer " + map.layer + ", head " + map.head),
    );
    button.dataset.layer = map.layer;
    button.dataset.head = map.head;
    button.addEventListener("click", () => ((lastFocus = button), open(view, map.layer, map.head)));
    return button;
  }

  function fill(place, view, maps, words, most = SHOWN_AT_FIRST) {
    place.replaceChildren(...maps.slice(0, most).map((map) => thumb(view, map, words(map))));
    if (!maps.length) place.append(el("p", { className: "quiet" }, "None of these heads."));
    if (maps.length > most) {
      const more = el("button", { type: "button", className: "plain more" }, "Show " + Math.min(24, maps.length - most) + " more");
      more.addEventListener("click", () => {
        fill(place, view, maps, words, most + 24);
        place.children[most].focus();
      });
      place.append(more);
    }
  }

  const byPattern = (map) => "p = " + two(map.probabilities[map.pattern]);

  function byMargin(map) {
    const order = [0, 1, 2, 3, 4].sort((a, b) => map.probabilities[b] - map.probabilities[a]);
    return order.slice(0, 2).map((i) => data.patterns[i].title + " " + two(map.probabilities[i])).join(" or ");
  }

  function margin(map) {
    const [first, second] = [...map.probabilities].sort((a, b) => b - a);
    return first - second;
  }

  function apply() {
    const current = +(choice("view") || 0);
    let shown = 0;
    let all = 0;
    data.views.forEach((view, number) => {
      const nodes = [...document.querySelectorAll('.view[data-view="' + number + '"]')];
      const within = (selector) => nodes.flatMap((node) => [...node.querySelectorAll(selector)]);
      for (const node of nodes) node.hidden = number !== current;
      for (const part of within(".grid, .bars-row[data-kind]"))
        part.hidden = Boolean(choice("kind")) && part.dataset.kind !== choice("kind");
      if (number !== current) return;
      const places = new Set();
      for (const cell of within("button.cell")) {
        const head = view.byPlace[cell.dataset.layer + "." + cell.dataset.head][cell.closest("table").dataset.kind];
        const on = fits(head);
        cell.classList.toggle("off", !on);
        if (on) places.add(head.layer + "." + head.head);
      }
      shown = places.size;
      all = Object.keys(view.byPlace).length;
      const maps = view.maps.filter(fitsMap);
      for (const strip of within(".strip")) {
        const pattern = data.patterns.findIndex((one) => one.name === strip.dataset.pattern);
        const sure = maps.filter((map) => map.pattern === pattern && map.why.includes("sure"));
        sure.sort((a, b) => b.probabilities[pattern] - a.probabilities[pattern]);
        strip.hidden = !sure.length && chips.some((chip) => chip.ariaPressed === "true");
        fill(strip.querySelector(".thumbs"), view, sure, byPattern);
      }
      const unsure = maps.filter((map) => map.why.includes("unsure")).sort((a, b) => margin(a) - margin(b));
      for (const place of within(".unsure .thumbs")) fill(place, view, unsure, byMargin, 16);
    });
    const chosen = chips.some((chip) => chip.ariaPressed === "true") || ["kind", "layer", "survives"].some(choice);
    document.getElementById("reset").hidden = !chosen;
    document.getElementById("shown").textContent = shown === all ? all + " heads" : shown + " of " + all + " heads";
  }

  for (const chip of chips)
    chip.addEventListener("click", () => ((chip.ariaPressed = String(chip.ariaPressed !== "true")), apply()));
  for (const select of filters.querySelectorAll("select")) if (select !== colour) select.addEventListener("change", apply);
  document.getElementById("reset").addEventListener("click", () => {
    for (const chip of chips) chip.ariaPressed = "false";
    for (const select of filters.querySelectorAll("select")) if (select.id !== "filter-view" && select !== colour) select.value = "";
    apply();
  });
  for (const part of document.querySelectorAll(".selects, .script")) part.hidden = false;
  addEventListener("beforeprint", hideTip);
  apply();

  function openHash() {
    const place = location.hash.match(/^#head-(\d+)-(\d+)-(\d+)$/);
    const view = place && data.views[place[1]];
    if (!view) return;
    const select = document.getElementById("filter-view");
    if (select) ((select.value = place[1]), apply());
    open(view, +place[2], +place[3]);
  }
  addEventListener("hashchange", openHash);
  openHash();
  document.documentElement.dataset.ready = "true";
})();
