// The page's conduct: asks for the model, starts and stops a request, and shows what comes.

import { showAlternatives } from "./alternatives.js";
import { apiBase, complete, modelName } from "./api.js";
import { Sample } from "./sample.js";
import { follow, requestOf } from "./settings.js";
import { asCurl, asPython } from "./snippets.js";
import { duration } from "./text.js";

const KEY = "metaseq-api-key";
const RETRY_SECONDS = 3;
const SHORTEST_TIMED = 0.1; // seconds

const at = (id) => document.getElementById(id);
const settings = at("settings");
const page = {
  model: "", // its name, once the server told it
  running: null, // the AbortController of the request under way
  samples: [],
  promptOfSamples: "",
};

// The model

async function askForModel() {
  try {
    page.model = await modelName(sessionStorage.getItem(KEY));
    at("model").textContent = page.model;
    document.title = `${page.model} · metaseq`;
  } catch (error) {
    at("model").textContent = error.message;
    if (error.status === 401) askForKey();
    // Still loading, or being started again: it will be there in a while.
    if (error.status === 503) setTimeout(askForModel, 1000 * (error.retryAfter ?? RETRY_SECONDS));
  }
}

function askForKey() {
  at("key-row").hidden = false;
  at("key").focus();
}

// A request

async function generate() {
  if (page.running || !settings.reportValidity()) return;
  page.running = new AbortController();
  const key = at("key").value.trim();
  if (key) sessionStorage.setItem(KEY, key);
  if (!page.model) await askForModel();
  const body = requestOf(settings, page.model, at("prompt").value);
  begin(body);
  const clock = { start: performance.now(), first: null };
  try {
    const usage = await receive(body, clock);
    say(summary(usage, body.n ?? 1, clock));
  } catch (error) {
    fail(error, clock);
  }
  finish();
}

function begin(body) {
  const count = body.n ?? 1;
  const samples = Array.from({ length: count }, (_, i) => new Sample(at("sample"), i, count));
  page.samples = samples;
  page.promptOfSamples = body.prompt;
  hideAlternatives();
  at("error").hidden = true;
  at("samples").replaceChildren(...samples.map((sample) => sample.element));
  at("results").hidden = false;
  at("legend").hidden = !body.logprobs;
  swap(at("generate"), at("stop"));
  say("Waiting for the first token…");
}

/** Takes the chunks as they come and shows them once a frame; the usage that the last one tells. */
async function receive(body, clock) {
  let usage = null;
  let isPaintDue = false;
  const paint = () => {
    isPaintDue = false;
    followText(() => page.samples.forEach((sample) => sample.paint()));
  };
  const key = sessionStorage.getItem(KEY);
  for await (const chunk of complete(body, key, page.running.signal)) {
    usage = chunk.usage ?? usage;
    for (const choice of chunk.choices) page.samples[choice.index].add(choice);
    if (clock.first === null && chunk.choices.length) {
      clock.first = performance.now();
      say("Writing…");
    }
    if (!isPaintDue) requestAnimationFrame(paint);
    isPaintDue = true;
  }
  return usage;
}

/** Keeps the end of the page in view while text grows there, if the reader is there. */
function followText(paint) {
  const view = document.documentElement;
  const isAtEnd = view.scrollHeight - view.clientHeight - view.scrollTop < 48;
  paint();
  if (isAtEnd) view.scrollTop = view.scrollHeight;
}

function summary(usage, count, clock) {
  const end = performance.now();
  const parts = [`Done in ${duration(end - clock.start)}`];
  if (usage) {
    const tokens = usage.completion_tokens;
    parts.push(tokens === 1 ? "1 token" : `${tokens} tokens`);
    const seconds = (end - clock.first) / 1000;
    // The first token of each sample waits for the prompt; what came in one go tells no speed.
    if (tokens > count && seconds > SHORTEST_TIMED) {
      const rate = (tokens - count) / seconds;
      parts.push(`${rate.toFixed(rate < 100 ? 1 : 0)} tokens/s`);
    }
  }
  if (clock.first !== null) parts.push(`first after ${duration(clock.first - clock.start)}`);
  return parts.join(" · ");
}

function fail(error, clock) {
  const isStopped = error.name === "AbortError";
  say(isStopped ? `Stopped after ${duration(performance.now() - clock.start)}` : "");
  for (const sample of page.samples) {
    if (!sample.isEnded) sample.end(isStopped ? "stopped" : "cut short");
  }
  if (isStopped) return;
  at("error").textContent = error.message;
  at("error").hidden = false;
  if (error.status === 401) askForKey();
}

function finish() {
  page.running = null;
  for (const sample of page.samples) sample.paint();
  // Nothing came: the error says why, and there is nothing to look at.
  if (page.samples.every((sample) => !sample.text && !at("error").hidden)) at("results").hidden = true;
  swap(at("stop"), at("generate"));
}

/** Shows one button in the place of another; the focus stays in that place. */
function swap(from, to) {
  const hadFocus = document.activeElement === from;
  from.hidden = true;
  to.hidden = false;
  if (hadFocus) to.focus();
}

function say(sentence) {
  at("status").textContent = sentence;
}

// Copies

async function copy(text, name) {
  try {
    await navigator.clipboard.writeText(text);
    say(`${name} is copied.`);
  } catch {
    // Without HTTPS, on another machine than the server's, there is no clipboard.
    at("code-title").textContent = name;
    at("code-text").value = text;
    at("code").showModal();
    at("code-text").select();
    at("code-text").scrollTop = 0;
  }
}

function snippet(write) {
  const body = requestOf(settings, page.model, at("prompt").value);
  return write(apiBase(), body, sessionStorage.getItem(KEY) !== null);
}

// What the reader does

at("request").addEventListener("submit", (event) => {
  event.preventDefault();
  generate();
});
settings.addEventListener("submit", (event) => {
  event.preventDefault();
  generate();
});
at("stop").addEventListener("click", () => page.running?.abort());
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") page.running?.abort();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    generate();
  }
});
at("copy-curl").addEventListener("click", () => copy(snippet(asCurl), "The curl command"));
at("copy-python").addEventListener("click", () => copy(snippet(asPython), "The Python program"));
at("numbers").addEventListener("change", () => {
  at("samples").classList.toggle("numbers", at("numbers").checked);
});
at("samples").addEventListener("click", (event) => {
  const sample = page.samples.find(({ element }) => element.contains(event.target));
  if (event.target.matches(".copy")) copy(sample.text, "The text");
  if (event.target.matches(".continue")) {
    at("prompt").value = page.promptOfSamples + sample.text;
    at("prompt").focus();
    at("prompt").scrollTop = at("prompt").scrollHeight;
  }
});
const hideAlternatives = showAlternatives(at("samples"), at("alternatives"), (span) =>
  page.samples.find(({ element }) => element.contains(span)),
);

follow(settings);
// On a phone the settings would push the text out of sight.
if (matchMedia("(width < 52rem)").matches) settings.querySelector(".all").open = false;
askForModel();
