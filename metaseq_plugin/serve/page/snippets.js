// The request of the page as a command or a program: the same body, to the last field.

import { spelled } from "./text.js";

// The fields that the `openai` package has no argument for.
const EXTENSIONS = new Set(["top_k"]);

/** JSON whose line breaks, of `indent`, stay as they are. */
function json(value, indent) {
  return JSON.stringify(value, null, indent).split("\n").map(spelled).join("\n");
}

/** `body` as a curl command for a POSIX shell. */
export function asCurl(base, body, hasKey) {
  const lines = [`curl --no-buffer ${quoted(`${base}/completions`)}`];
  lines.push(`-H 'Content-Type: application/json'`);
  if (hasKey) lines.push(`-H "Authorization: Bearer $OPENAI_API_KEY"`);
  lines.push(`-d ${quoted(json(body, 2))}`);
  return `${lines.join(" \\\n  ")}\n`;
}

function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** `body` as a program that uses the `openai` package. */
export function asPython(base, body, hasKey) {
  const own = Object.entries(body).filter(([name]) => !EXTENSIONS.has(name));
  const others = Object.entries(body).filter(([name]) => EXTENSIONS.has(name));
  const given = own.map(([name, value]) => `    ${name}=${literal(value)},`);
  if (others.length) given.push(`    extra_body=${literal(Object.fromEntries(others))},`);
  const key = hasKey ? "" : `, api_key="none"`; // the package takes OPENAI_API_KEY by itself
  return `from openai import OpenAI

client = OpenAI(base_url=${literal(base)}${key})
chunks = client.completions.create(
${given.join("\n")}
)
texts = {}
for chunk in chunks:
    for choice in chunk.choices:
        texts[choice.index] = texts.get(choice.index, "") + choice.text
for index in sorted(texts):
    print(texts[index])
`;
}

/** A JSON value in Python's spelling; JSON's strings and numbers are Python's. */
function literal(value) {
  if (value === true) return "True";
  if (value === false) return "False";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value === "object") {
    const pairs = Object.entries(value).map(([name, item]) => `${json(name)}: ${literal(item)}`);
    return `{${pairs.join(", ")}}`;
  }
  return json(value);
}
