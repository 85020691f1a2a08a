// The form of settings: as a request, and in the part of the address after # that a link keeps.

const ALTERNATIVES = 5;

// What the server does without the field: such fields are left out of the request.
const NEUTRAL = { top_k: 0, presence_penalty: 0, frequency_penalty: 0, n: 1 };

/** The request that the form asks for. */
export function requestOf(form, model, prompt) {
  const body = { model, prompt };
  for (const { name, value } of numbersOf(form)) {
    if (value !== "" && Number(value) !== NEUTRAL[name]) body[name] = Number(value);
  }
  const stops = stopTexts(form.elements.stop.value);
  if (stops.length) body.stop = stops;
  if (form.elements.logprobs.checked) body.logprobs = ALTERNATIVES;
  return { ...body, stream: true, stream_options: { include_usage: true } };
}

/** One stop text a line; \n, \t and \\ stand for a line break, a tab and a backslash. */
export function stopTexts(text) {
  const meant = { n: "\n", t: "\t", "\\": "\\" };
  return text
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => line.replace(/\\([nt\\])/g, (_, letter) => meant[letter]));
}

function numbersOf(form) {
  return [...form.elements].filter((element) => element.type === "number");
}

function fieldsOf(form) {
  return [...form.elements].filter((element) => element.name);
}

/** Ties the sliders to their numbers and the form to the address. */
export function follow(form) {
  readAddress(form);
  for (const slider of form.querySelectorAll("input[type=range]")) {
    const number = form.elements[slider.dataset.for];
    slider.value = number.value;
    slider.addEventListener("input", () => {
      number.value = slider.value;
    });
    number.addEventListener("input", () => {
      slider.value = number.value;
    });
  }
  form.addEventListener("input", () => writeAddress(form));
  globalThis.addEventListener("hashchange", () => {
    readAddress(form);
    for (const slider of form.querySelectorAll("input[type=range]")) {
      slider.value = form.elements[slider.dataset.for].value;
    }
  });
}

function readAddress(form) {
  const known = new URLSearchParams(location.hash.slice(1));
  for (const field of fieldsOf(form)) {
    if (!known.has(field.name)) continue;
    if (field.type === "checkbox") field.checked = known.get(field.name) === "on";
    else field.value = known.get(field.name);
    field.closest("details.more")?.setAttribute("open", "");
  }
}

/** Only what was changed, so that a link stays short. The prompt is never part of it. */
function writeAddress(form) {
  const changed = new URLSearchParams();
  for (const field of fieldsOf(form)) {
    if (field.type === "checkbox") {
      if (field.checked !== field.defaultChecked) changed.set(field.name, field.checked ? "on" : "off");
    } else if (field.value !== field.defaultValue) {
      changed.set(field.name, field.value);
    }
  }
  const hash = changed.toString();
  history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
}
