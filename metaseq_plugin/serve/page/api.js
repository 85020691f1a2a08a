// What the page asks of its server, OpenAI's protocol: the model's name, and a streamed completion.

import { eventsOf } from "./events.js";

/** A refusal, with the server's own sentence. */
export class ApiError extends Error {
  constructor(message, status = 0, retryAfter = null) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter; // seconds, or null
  }
}

/** Where the API is: beside the page, also behind a proxy that adds a folder. */
export function apiBase() {
  return new URL("v1", document.baseURI).href;
}

async function send(path, key, options = {}) {
  if (key && !/^[\x21-\x7e]+$/.test(key)) {
    // fetch would only say that it failed.
    const rule = "The API key must be letters, digits and signs, but holds others. Paste it again.";
    throw new ApiError(rule, 401);
  }
  const headers = { "Content-Type": "application/json" };
  if (key) headers.Authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(`${apiBase()}/${path}`, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server cannot be reached. Check that it is still running.");
  }
  if (response.ok) return response;
  const answer = await response.json().catch(() => null);
  const sentence = answer?.error?.message ?? `The server answered with status ${response.status}.`;
  const seconds = Number.parseInt(response.headers.get("Retry-After"), 10);
  throw new ApiError(sentence, response.status, Number.isNaN(seconds) ? null : seconds);
}

/** The name of the model that the server holds. */
export async function modelName(key) {
  const response = await send("models", key);
  return (await response.json()).data[0].id;
}

/** The parsed chunks of a completion, as they come. `signal` ends the request. */
export async function* complete(body, key, signal) {
  const cut = "The connection ended before the text did. What came until then is kept.";
  const response = await send("completions", key, {
    method: "POST",
    body: JSON.stringify(body),
    signal,
  });
  try {
    for await (const data of eventsOf(response.body)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(chunk.error.message);
      yield chunk;
    }
  } catch (error) {
    if (error instanceof TypeError) throw new ApiError(cut); // what fetch calls a broken connection
    throw error;
  }
  throw new ApiError(cut);
}
