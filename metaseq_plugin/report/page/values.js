// The numbers behind a plot, as a table: what was kept, a row for each place on the x axis.

const MAX_ROWS = 2000;

function valuesTable(plot, view) {
  const rows = new Map();
  plot.lines.forEach((line, column) => {
    const { [view.axis]: x, [line.column]: y, kept } = line.rows;
    y.forEach((value, row) => {
      if (value == null || x[row] == null || !kept[row]) return;
      const cells = rows.get(x[row]) ?? plot.lines.map(() => "");
      cells[column] = exact(value);
      rows.set(x[row], cells);
    });
  });
  const places = [...rows.keys()].sort((one, other) => one - other);
  const every = Math.ceil(places.length / MAX_ROWS);
  const shown = places.filter((_, index) => index % every === 0);
  const heads = [AXES[view.axis], ...plot.lines.map((line) => line.name)];
  const unit = plot.unit ? ` (${plot.unit})` : "";
  return table(`${plot.title}${unit}`, heads, shown.map((at) => [exact(at), ...rows.get(at)]));
}
