// The parts of a run's report beside its plots: what ran, its figures, time, energy, stops, chronicle, events.

const FEW = 200; // rows of a long table that are shown at first

function section(id, title, ...children) {
  return make("section", { id, "aria-labelledby": `${id}-title` }, make("h2", { id: `${id}-title` }, title), ...children);
}

/** A number and where it is from: "measured" goes without saying. */
function basisNote(basis) {
  return basis && basis !== "measured" ? make("small", { class: `basis ${basis}` }, basis) : null;
}

function figures(run) {
  const entries = run.figures.map(([label, text, basis]) =>
    make("div", { class: "figure" }, make("dt", {}, label), make("dd", {}, text, " ", basisNote(basis)))
  );
  return make("dl", { class: "figures" }, entries);
}

function problems(run) {
  if (!run.problems.length) return null;
  return make("ul", { class: "problems" }, run.problems.map((problem) => make("li", {}, problem)));
}

function whatRan(run) {
  const entries = run.what.flatMap(([label, text]) => [
    make("dt", {}, label),
    make("dd", { class: label === "Command" ? "command" : null }, text),
  ]);
  const options = run.options.length
    ? make("details", {}, make("summary", {}, `All ${run.options.length} options`), table("Options", ["option", "value"], run.options))
    : null;
  return [make("dl", { class: "facts" }, entries), options];
}

/** The bar of a run's time, whose parts are all of it, and the same as a table. */
function timeBar(run) {
  const parts = run.time.parts.filter((part) => part.seconds > 0);
  const bar = make("div", { class: "time", "aria-hidden": "true" });
  const whole = parts.reduce((sum, part) => sum + part.seconds, 0);
  for (const part of parts) {
    const piece = bar.appendChild(make("span", { class: `spent ${part.kind}`, title: `${part.label}: ${part.share}` }));
    piece.style.width = `${(100 * part.seconds) / whole}%`;
  }
  const rows = parts.map((part) => [
    make("span", { class: "key" }, make("i", { class: `spent ${part.kind}`, "aria-hidden": "true" }), part.label),
    part.text,
    part.share,
  ]);
  return [bar, table("Where the time went", ["spent on", "time", "share"], [...rows, ["together", ...run.time.together]], "sums")];
}

function energy(run) {
  const rows = run.numbers.map(([label, text, basis, formula]) => [label, text, basis, formula]);
  return table("Energy and carbon", ["", "value", "how it is known", "formula and inputs"], rows, "wrapped");
}

function starts(run) {
  return table("Starts and stops", run.starts.heads, run.starts.rows, "wrapped");
}

function chronicle(run) {
  return run.chronicle.map(({ day, entries }) => [
    make("h3", {}, day),
    make("ol", { class: "chronicle" }, entries.map(chronicleEntry)),
  ]);
}

function chronicleEntry({ time, text, author }) {
  const who = author ? [make("b", {}, author), ": "] : [];
  return make("li", { class: author ? "noted" : null }, make("time", {}, time), make("p", {}, ...who, text));
}

/** All events; a long list begins with the last of them. */
function events(run) {
  const heads = ["time (UTC)", "event", "update", "what"];
  const kinds = [...new Set(run.events.map((event) => event.kind))].sort();
  const choice = make("select", { "aria-label": "Which events" }, make("option", { value: "" }, "all events"), kinds.map((kind) => make("option", { value: kind }, kind)));
  const frame = make("div", {});
  let most = FEW;

  function fill() {
    const chosen = run.events.filter((event) => !choice.value || event.kind === choice.value);
    const shown = chosen.slice(-most);
    const rows = shown.map(({ time, kind, update, text }) => [time, kind, update, text]);
    const more = make("button", { type: "button" }, `Show all ${chosen.length}`);
    more.addEventListener("click", () => {
      most = Infinity;
      fill();
      frame.querySelector(".frame").focus();
    });
    frame.replaceChildren(table("Events", heads, rows, "wrapped"), ...(shown.length < chosen.length ? [more] : []));
  }

  choice.addEventListener("change", fill);
  fill();
  return [choice, frame];
}

/** All sections of a run. With several runs, ids carry its number, and its own sections open on demand. */
function runSections(run, number, isOnly) {
  const id = (name) => (isOnly ? name : `${name}-${number}`);
  const parts = [
    section(id("what"), "What ran", ...whatRan(run)),
    section(id("time"), "Where the time went", ...timeBar(run)),
    section(id("energy"), "Operations, energy and carbon", energy(run)),
    section(id("starts"), "Starts and stops", starts(run)),
    section(id("chronicle"), "Chronicle", ...chronicle(run).flat()),
    section(id("events"), "Events", ...events(run)),
  ];
  if (isOnly) return parts;
  const head = make("summary", {}, make("h2", {}, run.name));
  return [make("details", { class: "run", id: `run-${number}` }, head, make("p", {}, run.state), figures(run), problems(run), ...parts)];
}
