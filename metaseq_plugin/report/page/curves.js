// Curves of a plot: the rows of a table as paths. Updates that were done and lost again are drawn apart.

/** The rows of a line as stretches that a pen draws without lifting: [{isLost, rows}]. */
function stretches(line, axis) {
  const { [axis]: x, [line.column]: y, start, kept } = line.rows;
  const found = [];
  const pens = [null, null]; // of what was lost, and of what was kept
  for (let row = 0; row < y.length; row += 1) {
    if (y[row] == null || x[row] == null) {
      pens[kept[row]] = null;
      continue;
    }
    const pen = pens[kept[row]];
    // In hours, a stop is a gap; in updates and tokens what was kept goes on where it was.
    const isNext = pen && start[pen.rows.at(-1)] === start[row] && (kept[row] || x[row] >= x[pen.rows.at(-1)]);
    if (isNext || (pen && kept[row] && axis !== "hours")) {
      pen.rows.push(row);
    } else {
      pens[kept[row]] = { isLost: !kept[row], rows: [row] };
      found.push(pens[kept[row]]);
    }
  }
  return found;
}

/** A line: its band from lowest to highest where rows were put together, and its curve. */
function drawLine(line, view, x, y) {
  const group = draw("g", { class: `line colour-${line.colour} dash-${line.dash}` });
  const high = line.rows[`${line.column}_high`];
  const place = (row, values) => `${x.at(line.rows[view.axis][row]).toFixed(1)} ${y.at(values[row]).toFixed(1)}`;
  const values = line.rows[line.column];
  const low = line.rows[`${line.column}_low`] ?? values;
  for (const { isLost, rows } of stretches(line, view.axis)) {
    if (isLost && view.hidden.has("lost")) continue;
    const points = rows.filter((row) => y.isLinear || values[row] > 0);
    if (!points.length) continue;
    if (high && points.length > 1) {
      const edge = [...points.map((row) => place(row, high)), ...points.map((row) => place(row, low)).reverse()];
      group.append(draw("path", { class: "band", d: `M${edge.join("L")}Z` }));
    }
    const path = points.map((row) => place(row, values)).join("L");
    const isPoint = points.length === 1 || line.hasPoints;
    group.append(draw("path", { class: isLost ? "curve lost" : "curve", d: `M${path}` }));
    if (isPoint) group.append(...points.map((row) => point(place(row, values), isLost)));
  }
  return group;
}

function point(place, isLost) {
  const [cx, cy] = place.split(" ");
  return draw("circle", { class: "point", cx, cy, r: isLost ? 1 : 2.5 });
}

/** The row of a line nearest to `at`, among those that were kept; -1 where it has none. */
function nearestRow(line, axis, at) {
  const { [axis]: x, [line.column]: y, kept } = line.rows;
  let nearest = -1;
  let away = Infinity;
  for (let row = 0; row < x.length; row += 1) {
    if (y[row] == null || x[row] == null || !kept[row]) continue;
    const distance = Math.abs(x[row] - at);
    if (distance < away) [nearest, away] = [row, distance];
  }
  return nearest;
}
