// The cursor of the plots: one place for all of them, moved by a pointer or by keys, and what stands there.

const FAR = 10; // places that Page Up and Page Down skip
const MOST = 4; // marks that the box names
const LONG = 80; // characters of each
const HEADS = {
  update: (at) => `update ${Math.round(at).toLocaleString("en")}`,
  tokens: (at) => `${short(at)} tokens`,
  hours: (at) => `${rounded(at)} h`,
};

/** What each line has near `at`: {head, rows: [[line, text]], marks}. */
function reading(plot, view, x, at) {
  const rows = [];
  for (const line of plot.lines) {
    const row = nearestRow(line, view.axis, at);
    if (row < 0) continue;
    const place = line.rows[view.axis][row];
    const isHere = place === at; // of another line's updates, as those of a validation
    rows.push([line, `${short(line.rows[line.column][row])}${isHere ? "" : ` at ${short(place)}`}`]);
  }
  return { head: HEADS[view.axis](at), rows, marks: marksNear(plot.marks, view, x, at) };
}

function spoken({ head, rows, marks }) {
  return [head, ...rows.map(([line, text]) => `${line.name} ${text}`), ...marks.map((mark) => mark.text)].join(", ");
}

/** The beginning of a text that would hide the plot; the events have all of it. */
function cut(text) {
  return text.length > LONG ? `${text.slice(0, LONG)}…` : text;
}

/** The box beside the cursor, on the side that has room. */
function showBox({ box, stage }, { head, rows, marks }, left) {
  box.replaceChildren(
    make("p", {}, head),
    make("ul", {}, rows.map(([line, text]) => make("li", {}, swatch(line), make("span", {}, line.name), make("b", {}, text)))),
    ...marks.slice(0, MOST).map((mark) => make("p", { class: `happened ${mark.group}` }, cut(mark.text)))
  );
  const place = (left / stage.firstChild.viewBox.baseVal.width) * stage.clientWidth;
  const isRight = place + box.offsetWidth + 12 < stage.clientWidth;
  box.style.left = `${Math.max(0, isRight ? place + 12 : place - box.offsetWidth - 12)}px`;
}

/** The pointer moves the cursor; dragging a mouse chooses a part of the x axis. */
function followPointer(stage, svg, view, state) {
  const at = (event) => {
    const box = svg.getBoundingClientRect();
    const place = state.x.value(((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width);
    return Math.min(state.x.high, Math.max(state.x.low, place));
  };
  let from = null;
  stage.addEventListener("pointermove", (event) => view.moveTo(nearest(state.stops, at(event)), stage));
  stage.addEventListener("pointerleave", (event) => {
    if (event.pointerType === "mouse") view.moveTo(null, null); // a finger is lifted to read
  });
  stage.addEventListener("pointerdown", (event) => {
    from = event.pointerType === "mouse" ? { place: event.clientX, value: at(event) } : null;
    view.moveTo(nearest(state.stops, at(event)), stage);
  });
  stage.addEventListener("pointerup", (event) => {
    if (from && Math.abs(event.clientX - from.place) > 8) view.zoom(...[from.value, at(event)].sort((a, b) => a - b));
    from = null;
  });
}

function followKeys(stage, view, state) {
  stage.addEventListener("focus", () => {
    if (stage.matches(":focus-visible")) view.moveTo(view.cursor ?? state.stops[0] ?? null, stage);
  });
  stage.addEventListener("blur", () => view.moveTo(null, null));
  stage.addEventListener("keydown", (event) => {
    if (event.key === "Escape") return view.moveTo(null, null);
    const seen = state.stops.filter((at) => at >= state.x.low && at <= state.x.high);
    const here = seen.indexOf(nearest(seen, view.cursor ?? state.x.low));
    const steps = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: FAR, PageDown: -FAR };
    const row = { Home: 0, End: seen.length - 1 }[event.key] ?? here + steps[event.key];
    if (!seen.length || Number.isNaN(row)) return undefined;
    event.preventDefault();
    return view.moveTo(seen[Math.min(seen.length - 1, Math.max(0, row))], stage);
  });
}

/** The member of `places` nearest to `at`; they are in order. */
function nearest(places, at) {
  let low = 0;
  let high = places.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (places[middle] < at) low = middle;
    else high = middle;
  }
  if (!places.length) return null;
  return at - places[low] <= places[high] - at ? places[low] : places[high];
}
