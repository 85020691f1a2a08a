// What happened, below each curve: a glyph for each event, and a line through the plot where a run began or stopped.

const GLYPHS = {
  start: "M-3 -5 L4 0 L-3 5 Z",
  stop: "M-4 -4 H4 V4 H-4 Z",
  spike: "M0 -5 L5 4 H-5 Z",
  save: "M0 -5 V5",
  change: "M0 -5 L5 0 L0 5 L-5 0 Z",
  note: "M-4 0 A4 4 0 1 1 4 0 A4 4 0 1 1 -4 0",
};
// Below the axis, starts and stops stand in a row of their own: they often come with something else.
const ROWS = { start: 13, stop: 13 };
const SECOND_ROW = 27;
const HAS_LINE = new Set(["start", "stop", "spike"]);
const MOST_LINES = 40;
const NEAR = 5; // pixels within which the cursor is at a mark

function glyph(kind, x, y) {
  return draw("path", { class: `mark ${kind}`, d: GLYPHS[kind], transform: `translate(${x.toFixed(1)} ${y})` });
}

/** The marks that are to be seen, one for each kind and pixel; where lines would be a grid, only glyphs. */
function drawMarks(marks, view, x, { top, bottom }) {
  const seen = new Map();
  for (const mark of marks) {
    const at = mark[view.axis];
    if (at == null || at < x.low || at > x.high || view.hidden.has(mark.group)) continue;
    seen.set(`${mark.group} ${Math.round(x.at(at))}`, [mark.group, x.at(at)]);
  }
  const places = [...seen.values()];
  const through = places.filter(([kind]) => HAS_LINE.has(kind));
  const lines = through.length > MOST_LINES ? [] : through;
  return draw(
    "g",
    { class: "marks" },
    lines.map(([kind, at]) => draw("path", { class: `through ${kind}`, d: `M${at.toFixed(1)} ${top} V${bottom}` })),
    places.map(([kind, at]) => glyph(kind, at, bottom + (ROWS[kind] ?? SECOND_ROW)))
  );
}

/** The marks at the cursor, nearest first. */
function marksNear(marks, view, x, cursor) {
  const away = (mark) => Math.abs(x.at(mark[view.axis]) - x.at(cursor));
  return marks
    .filter((mark) => mark[view.axis] != null && !view.hidden.has(mark.group) && away(mark) <= NEAR)
    .sort((one, other) => away(one) - away(other));
}
