// Talking with the server: its key, what it offers, and the events of an answer.

const KEPT = "exptilt-key";

/** The API key that was typed; a browser may refuse to keep it, then it lasts as long as the page. */
let apiKey = null;
try {
  apiKey = sessionStorage.getItem(KEPT);
} catch (refused) {
  console.info(`the key was not kept: ${refused.message}`);
}

function keepKey(key) {
  apiKey = key;
  try {
    sessionStorage.setItem(KEPT, key);
  } catch (refused) {
    console.info(`the key is not kept: ${refused.message}`);
  }
}

/** What the server refused, in its own words: `param` names the field at fault. */
class Refused extends Error {
  constructor({ message, param = null, code = null }, status = null, retryAfter = null) {
    super(retryAfter === null ? message : `${message}. Try again in ${several(Number(retryAfter), "second")}.`);
    Object.assign(this, { param, code, status });
  }
}

/** A request to a path beside this page. Raises Refused for every status but success. */
async function ask(path, options = {}) {
  const headers = { ...options.headers, ...(apiKey === null ? {} : { authorization: `Bearer ${apiKey}` }) };
  const response = await fetch(path, { ...options, headers });
  if (response.ok) return response;
  const told = await response.json().then((body) => body.error, () => ({ message: `the server answered ${response.status} ${response.statusText}` }));
  throw new Refused(told, response.status, response.headers.get("retry-after"));
}

/** The events of an answer as {event, data}; comments have the event "progress". Raises Refused for an event that is an error. */
async function* eventsOf(body, signal) {
  const response = await ask("events", { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body), signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let [buffer, ended] = ["", false];
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    const parts = (buffer + value).split(/\r?\n\r?\n/);
    buffer = parts.pop();
    for (const part of parts) {
      const found = readEvent(part);
      if (found.event === "error") throw new Refused(found.data.error);
      ended ||= found.event === "result";
      yield found;
    }
  }
  if (!ended) throw new Refused({ message: "the connection ended before the answer came" });
}

/** One event out of its lines. */
function readEvent(part) {
  const lines = part.split(/\r?\n/);
  const of = (name) => lines.filter((line) => line.startsWith(`${name}:`)).map((line) => line.slice(name.length + 1).replace(/^ /, "")).join("\n");
  const data = of("data");
  return data === "" ? { event: "progress", data: JSON.parse(of("") || "{}") } : { event: of("event"), data: JSON.parse(data) };
}
