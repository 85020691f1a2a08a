// One plot: a figure with its curves, a cursor that pointer and keys move, and a table of its values.

const HEIGHT = 252;
const MARGIN = { top: 12, right: 14, bottom: 54, left: 56 };
const AXES = { update: "update", tokens: "tokens", hours: "hours since the first start" };

/** The figure of `plot` in a page whose state is `view`; gives {element, redraw, moveTo}. */
function makePlot(plot, view) {
  const parts = plotParts(plot);
  const state = { x: null, y: null, stops: [], isLog: plot.base != null && startsLog(plot) };

  function redraw() {
    const width = Math.max(260, parts.stage.clientWidth);
    const inside = { left: MARGIN.left, right: width - MARGIN.right, top: MARGIN.top, bottom: HEIGHT - MARGIN.bottom };
    state.x = scale(...view.range(), inside.left, inside.right);
    state.y = valueScale(plot, view, state.isLog, inside);
    state.stops = rowsAt(plot, view);
    parts.svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    parts.svg.replaceChildren(...drawing(plot, view, state, inside, parts.clip));
    parts.cursor = parts.svg.appendChild(draw("path", { class: "cursor" }));
    parts.cursor.dataset.top = inside.top;
    parts.cursor.dataset.bottom = inside.bottom;
    moveTo(view.cursor, false);
    if (parts.values.open) fillValues();
  }

  /** Shows the values at `at`; the box with them only where `isHere`. */
  function moveTo(at, isHere) {
    const isShown = at != null && at >= state.x.low && at <= state.x.high;
    parts.box.hidden = !(isShown && isHere);
    parts.cursor.setAttribute("d", isShown ? `M${state.x.at(at)} ${parts.cursor.dataset.top} V${parts.cursor.dataset.bottom}` : "");
    if (!isShown) return;
    const read = reading(plot, view, state.x, at);
    parts.stage.setAttribute("aria-valuenow", rounded(at));
    parts.stage.setAttribute("aria-valuetext", spoken(read));
    if (isHere) showBox(parts, read, state.x.at(at));
  }

  function fillValues() {
    parts.values.querySelector(".frame")?.remove();
    parts.values.append(valuesTable(plot, view));
  }

  parts.log?.addEventListener("change", () => {
    state.isLog = parts.log.checked;
    redraw();
  });
  if (parts.log) parts.log.checked = state.isLog;
  parts.values.addEventListener("toggle", () => parts.values.open && fillValues());
  followPointer(parts.stage, parts.svg, view, state);
  followKeys(parts.stage, view, state);
  return { element: parts.figure, stage: parts.stage, redraw, moveTo };
}

function plotParts(plot) {
  const clip = `clip-${plot.key}`;
  const svg = draw("svg", { "aria-hidden": "true" });
  const box = make("div", { class: "box", "aria-hidden": "true", hidden: true });
  const stage = make(
    "div",
    { class: "stage", tabindex: 0, role: "slider", "aria-label": `${plot.title}: values along the run`, "aria-valuemin": 0, "aria-valuenow": 0 },
    svg,
    box
  );
  const log = plot.base == null ? null : make("input", { type: "checkbox" });
  const values = make("details", { class: "values" }, make("summary", {}, `Values of ${plot.title.toLowerCase()}`));
  const heading = make("h3", {}, plot.title, " ", make("span", { class: "unit" }, plot.unit));
  const legend = plot.lines.length > 1 ? make("ul", { class: "legend" }, plot.lines.map(legendEntry)) : null;
  const figure = make(
    "figure",
    { id: `plot-${plot.key}` },
    make("figcaption", {}, heading, log && make("label", { class: "log" }, log, "log")),
    make("p", { class: "spoken" }, summary(plot)),
    legend,
    stage,
    plot.hint ? make("p", { class: "hint" }, plot.hint) : null,
    values
  );
  return { figure, stage, svg, box, log, values, clip };
}

function legendEntry(line) {
  return make("li", {}, swatch(line), line.name);
}

function swatch(line) {
  const stroke = draw("path", { class: "curve", d: "M1 5 H19" });
  return draw("svg", { class: `swatch line colour-${line.colour} dash-${line.dash}`, viewBox: "0 0 20 10", "aria-hidden": "true" }, stroke);
}

/** What the plot says to someone who does not see it. */
function summary(plot) {
  const lines = plot.lines.map((line) => {
    const values = line.rows[line.column].filter((value, row) => value != null && line.rows.kept[row]);
    const [low, high] = extent(values) ?? [null, null];
    return `${line.name}: from ${short(values[0])} to ${short(values.at(-1))}, lowest ${short(low)}, highest ${short(high)}`;
  });
  return `${plot.title}${plot.unit ? `, ${plot.unit}` : ""}. ${lines.join(". ")}.`;
}

function startsLog(plot) {
  if (plot.base === 2) return true; // a scale that is halved and doubled
  const ends = extent(plot.lines.flatMap((line) => line.rows[line.column]));
  return ends != null && wantsLog(ends);
}

/** The scale of the values that can be seen. */
function valueScale(plot, view, isLog, inside) {
  const [first, last] = view.range();
  const seen = plot.lines.flatMap((line) => {
    const { [view.axis]: x, kept } = line.rows;
    const isSeen = (row) => x[row] >= first && x[row] <= last && (kept[row] || !view.hidden.has("lost"));
    const columns = [line.column, `${line.column}_low`, `${line.column}_high`].filter((name) => line.rows[name]);
    return columns.flatMap((name) => line.rows[name].filter((_, row) => isSeen(row)));
  });
  const ends = extent(isLog ? seen.filter((value) => value > 0) : seen) ?? [isLog ? 1 : 0, isLog ? 10 : 1];
  const from = plot.fromZero && !isLog ? [Math.min(0, ends[0]), ends[1] * 1.06 || 1] : padded(ends, isLog);
  return { ...scale(...from, inside.bottom, inside.top, isLog ? plot.base : null), isLinear: !isLog };
}

/** All places on the x axis where some line has a value, in order: where the arrow keys go. */
function rowsAt(plot, view) {
  const places = new Set();
  for (const { rows, column } of plot.lines) {
    rows[view.axis].forEach((at, row) => at != null && rows.kept[row] && rows[column][row] != null && places.add(at));
  }
  return [...places].sort((one, other) => one - other);
}

function drawing(plot, view, { x, y }, inside, clip) {
  const axes = draw("g", { class: "axes" });
  for (const tick of y.ticks(6)) {
    const at = y.at(tick).toFixed(1);
    axes.append(draw("path", { d: `M${inside.left} ${at} H${inside.right}` }));
    axes.append(draw("text", { x: inside.left - 8, y: at, class: "value" }, short(tick)));
  }
  const wanted = Math.max(2, Math.floor((inside.right - inside.left) / 90));
  for (const tick of x.ticks(wanted)) {
    axes.append(draw("text", { x: x.at(tick).toFixed(1), y: HEIGHT - 4, class: "place" }, short(tick)));
  }
  axes.append(draw("path", { class: "base", d: `M${inside.left} ${inside.bottom} H${inside.right}` }));
  const corner = { x: inside.left, y: inside.top, width: inside.right - inside.left, height: inside.bottom - inside.top };
  const lines = draw("g", { "clip-path": `url(#${clip})` }, plot.lines.map((line) => drawLine(line, view, x, y)));
  return [
    draw("defs", {}, draw("clipPath", { id: clip }, draw("rect", corner))),
    axes,
    drawMarks(plot.marks, view, x, inside),
    lines,
  ];
}
