// What the page knows, and which part of it is wanted: the one place that holds state.

const report = JSON.parse(byId("overview").textContent);
const { methods, prompts } = report;
const judged = prompts.some((prompt) => prompt.reference !== null);

const state = { method: 0, prompt: 0, query: "", texts: false, result: "all", warning: "all", ended: "all", sort: "file", falling: false };

/** How the answer of a prompt came about by a method; parsed when it is asked for, and null where it was not run. */
function detailOf(prompt, method) {
  const holder = byId(`detail-${prompt}-${method}`);
  return holder === null ? null : JSON.parse(holder.textContent);
}

const RESULTS = {
  all: ["all", () => true],
  right: ["right", (entry) => entry.right === true],
  wrong: ["wrong", (entry) => entry.right === false],
  none: ["no answer", (entry) => entry.error !== undefined || entry.answer === null],
  differ: ["methods differ", (entry, prompt) => new Set(prompt.by.filter(Boolean).map((other) => other.right)).size > 1],
  unlike: ["methods answer differently", (entry, prompt) => new Set(prompt.by.filter(Boolean).map((other) => other.answer)).size > 1],
};
const ENDED = {
  all: ["all", () => true],
  done: ["done", (entry) => entry.stopped === false],
  stopped: ["stopped by the budget", (entry) => entry.stopped === true],
  failed: ["failed", (entry) => entry.error !== undefined],
};
const SORTS = {
  file: ["as in the file", null],
  share: ["weight of the answer", "share"],
  reward: ["reward", "reward"],
  ess: ["effective sample size", "ess"],
  k_hat: ["k̂", "k_hat"],
  acceptance: ["acceptance", "acceptance"],
  log_z: ["log Ẑ", "log_z"],
  tokens: ["tokens", "tokens"],
};

const hasWarning = (entry, wanted) => {
  const found = entry.warnings ?? [];
  if (wanted === "all") return true;
  if (wanted === "any") return found.length > 0;
  return wanted === "none" ? found.length === 0 : found.includes(Number(wanted));
};

/** Whether a prompt holds the words looked for: in itself, its answers, and on demand in every text drawn for it. */
function holds(prompt, row, query) {
  if (query === "") return true;
  const said = [prompt.prompt, prompt.reference, ...prompt.by.filter(Boolean).map((entry) => entry.answer ?? entry.error)];
  if (said.some((text) => text !== null && text !== undefined && text.toLowerCase().includes(query))) return true;
  if (!state.texts) return false;
  return methods.some((method, column) => {
    const holder = byId(`detail-${row}-${column}`);
    if (holder === null) return false;
    return JSON.parse(holder.textContent).texts?.some((text) => text.toLowerCase().includes(query)) ?? false;
  });
}

/** The numbers of the prompts that pass every filter, in the wanted order. */
function found() {
  const query = state.query.trim().toLowerCase();
  const rows = prompts.flatMap((prompt, row) => {
    const entry = prompt.by[state.method];
    if (!entry) return [];
    const passes =
      RESULTS[state.result][1](entry, prompt) &&
      ENDED[state.ended][1](entry) &&
      hasWarning(entry, state.warning) &&
      holds(prompt, row, query);
    return passes ? [row] : [];
  });
  const field = SORTS[state.sort][1];
  if (field !== null) {
    const value = (row) => {
      const number = num(prompts[row].by[state.method][field]);
      return Number.isNaN(number) ? null : number;
    };
    const missingLast = (one, other) => (one === null) - (other === null);
    rows.sort((a, b) => {
      const [one, other] = [value(a), value(b)];
      return one === null || other === null ? missingLast(one, other) : one < other ? -1 : one > other ? 1 : a - b;
    });
  }
  if (state.falling) {
    const known = field === null ? rows : rows.filter((row) => !Number.isNaN(num(prompts[row].by[state.method][field])));
    return [...known.reverse(), ...rows.slice(known.length)];
  }
  return rows;
}
