// Puts the page together: the ledger's numbers stand as JSON in the script tag `ledger`.

const GROUPS = {
  start: "starts",
  stop: "stops",
  spike: "spikes and what was skipped",
  save: "saves",
  change: "changes",
  note: "notes",
};

/** What all plots share: the x axis, the part of it that is seen, what is hidden, and where the cursor is. */
function makeView(plots) {
  const view = { axis: "update", hidden: new Set(), cursor: null, window: null, figures: [] };
  view.whole = () => {
    const edges = plots[0]?.marks.filter(({ group }) => group === "start" || group === "stop") ?? [];
    const places = plots.flatMap((plot) => plot.lines.flatMap((line) => line.rows[view.axis]));
    return extent([...places, ...edges.map((mark) => mark[view.axis])]) ?? [0, 1];
  };
  view.range = () => {
    const [low, high] = view.window ?? view.whole();
    return low === high ? [low - 1, high + 1] : [low, high];
  };
  view.redraw = () => view.figures.forEach((figure) => figure.redraw());
  view.moveTo = (at, stage) => {
    view.cursor = at;
    for (const figure of view.figures) figure.moveTo(at, figure.stage === stage);
  };
  view.zoom = (low, high) => {
    view.window = low < high ? [low, high] : null;
    view.cursor = null;
    view.changed?.();
    view.redraw();
  };
  return view;
}

/** Plots with their lines' rows, and the marks of the runs that are in them. */
function readPlots({ plots, runs }) {
  return plots.map((plot) => ({
    ...plot,
    lines: plot.lines.map((line) => ({ ...line, rows: runs[line.run].tables[line.table] })),
    marks: [...new Set(plot.lines.map((line) => line.run))].flatMap((run) => named(runs[run], runs.length > 1)),
  }));
}

/** The marks of a run; those of several runs say whose they are. */
function named({ name, marks }, isOneOfMany) {
  return isOneOfMany ? marks.map((mark) => ({ ...mark, text: `${name}: ${mark.text}` })) : marks;
}

/** The choices above the plots. */
function controls(view, plots) {
  const present = new Set(plots.flatMap((plot) => plot.marks.map((mark) => mark.group)));
  const axis = choices("Along", Object.keys(AXES), (name, input) => {
    input.checked = name === view.axis;
    input.addEventListener("change", () => {
      view.axis = name;
      view.zoom(0, 0);
    });
  });
  const hasLost = plots.some((plot) => plot.lines.some((line) => line.rows.kept.includes(0)));
  const toggles = [...Object.keys(GROUPS).filter((group) => present.has(group)), ...(hasLost ? ["lost"] : [])];
  const shown = make("fieldset", { class: "shown" }, make("legend", {}, "Marks"));
  for (const group of toggles) shown.append(toggle(view, group));
  return make("form", { class: "controls", autocomplete: "off" }, axis, part(view), toggles.length ? shown : null);
}

function choices(title, names, prepare) {
  const set = make("fieldset", {}, make("legend", {}, title));
  for (const name of names) {
    const input = make("input", { type: "radio", name: title });
    prepare(name, input);
    set.append(make("label", {}, input, name === "update" ? "updates" : name));
  }
  return set;
}

function toggle(view, group) {
  const input = make("input", { type: "checkbox", "data-group": group });
  input.checked = true;
  input.addEventListener("change", () => {
    if (input.checked) view.hidden.delete(group);
    else view.hidden.add(group);
    view.redraw();
  });
  const sign = group === "lost" ? null : draw("svg", { class: "sign", viewBox: "-7 -7 14 14", "aria-hidden": "true" }, glyph(group, 0, 0));
  return make("label", {}, input, sign, group === "lost" ? "lost updates" : GROUPS[group]);
}

/** From where to where: the same as dragging over a plot. */
function part(view) {
  const [from, to] = ["From", "to"].map((name) => make("input", { type: "number", step: "any", "aria-label": name === "to" ? "To" : name }));
  const all = make("button", { type: "button" }, "All");
  view.changed = () => {
    const ends = view.range();
    [from, to].forEach((input, index) => {
      input.value = rounded(ends[index]);
    });
    all.disabled = view.window === null;
  };
  const choose = () => view.zoom(from.valueAsNumber, to.valueAsNumber);
  from.addEventListener("change", choose);
  to.addEventListener("change", choose);
  all.addEventListener("click", () => view.zoom(0, 0));
  view.changed();
  return make("fieldset", {}, make("legend", {}, "Part"), from, " to ", to, all);
}

/** To a section, or to a run, which it opens. */
function link(part) {
  const made = make("a", { href: `#${part.id}` }, part.querySelector("h2").textContent);
  if (part.matches("details")) made.addEventListener("click", () => { part.open = true; });
  return made;
}

function start() {
  const ledger = JSON.parse(document.getElementById("ledger").textContent);
  const isOnly = ledger.runs.length === 1;
  const [first] = ledger.runs;
  document.title = ledger.title;
  document.getElementById("title").textContent = isOnly ? first.name : `${ledger.runs.length} runs`;
  document.getElementById("state").textContent = isOnly ? first.state : ledger.runs.map((run) => run.name).join(", ");
  document.getElementById("made").textContent = ledger.made;
  const plots = readPlots(ledger);
  const view = makeView(plots);
  view.figures = plots.map((plot) => makePlot(plot, view));
  const drawn = make("div", { class: "plots" }, view.figures.map((figure) => figure.element));
  const none = make("p", { class: "hint" }, "No update is in the ledger yet.");
  const sections = [
    isOnly
      ? section("progress", "Progress", figures(first), problems(first))
      : section("comparison", "Comparison", table("Comparison", ledger.comparison.heads, ledger.comparison.rows)),
    section("curves", "Curves", ...(plots.length ? [controls(view, plots), drawn] : [none])),
    ...ledger.runs.flatMap((run, number) => runSections(run, number, isOnly)),
  ];
  const main = document.querySelector("main");
  main.replaceChildren(...sections);
  const heads = [...main.querySelectorAll(isOnly ? "section" : ":scope > section, :scope > details")];
  const links = heads.map((part) => link(part));
  document.querySelector("nav").append(...links);
  view.redraw();
  new ResizeObserver(view.redraw).observe(drawn);
  addEventListener("beforeprint", () => document.querySelectorAll("details.run").forEach((run) => { run.open = true; }));
}

start();
