// One prompt by one method: the answer, how far it can be trusted, and how it came about.

function drawDetail() {
  const place = byId("detail");
  if (rows.length === 0) {
    place.replaceChildren(el("p", { class: "about" }, "No prompt passes these filters."));
    return;
  }
  const prompt = prompts[state.prompt];
  const data = detailOf(state.prompt, state.method);
  const body = data === null ? [el("p", { class: "note" }, "This method has no line for this prompt.")] : data.error !== undefined ? drawFailure(data) : drawAnswer(data, prompt);
  place.replaceChildren(drawAsked(prompt), drawMethods(prompt), ...body.filter(Boolean));
  place.scrollTop = 0;
}

/** The prompt; a chat as its turns, each under the name of its role. */
function drawAsked(prompt) {
  if (!prompt.turns) return el("p", { class: "asked" }, prompt.prompt);
  return el("dl", { class: "asked" }, prompt.turns.flatMap((turn) => [el("dt", { class: "quiet" }, turn.role), el("dd", {}, turn.content)]));
}

/** One tab for each method, with its answer. */
function drawMethods(prompt) {
  if (methods.length === 1) return "";
  return el("div", { class: "methods", role: "group", "aria-label": "Methods" }, methods.map((method, number) => {
    const entry = prompt.by[number];
    return el("button", { type: "button", "aria-pressed": String(number === state.method), disabled: !entry, on: { click: () => visit(state.prompt, number) } },
      swatch(number), method.name, entry && el("span", {}, sign(entry), entry.error ?? entry.answer ?? "no answer"));
  }));
}

/** Show a prompt by a method; where the filters leave it out, they are taken back. */
function visit(prompt, method) {
  Object.assign(state, { prompt, method });
  if (!found().includes(prompt)) Object.assign(state, { query: "", result: "all", warning: "all", ended: "all" });
  drawFilters();
  refresh();
}

const drawFailure = (data) => [el("p", { class: "note bad" }, el("b", {}, data.error), ` ${data.message}`)];

function drawAnswer(data, prompt) {
  const entry = prompt.by[state.method];
  const text = data.texts[data.chosen];
  return [
    el("section", { class: "block answer-block" },
      el("h3", { class: "final" }, entry.right !== null && sign(entry), entry.answer ?? "no answer", prompt.reference !== null && entry.right === false && el("span", { class: "quiet" }, ` instead of ${prompt.reference}`)),
      passage(text), el("p", { class: "facts" }, factsOf(entry, data).map(([name, value]) => el("span", {}, `${name} `, el("b", {}, value))))),
    data.limit !== null &&
      el("p", { class: "note" }, `Stopped by the ${data.stopped === "until" ? "stop rule" : "budget"} (${data.limit}): this is the last complete population.`),
    data.proved !== null &&
      el("p", { class: "note" }, `Proved: ${data.proved} is the most probable answer, whatever was not drawn.`),
    data.warnings.length > 0 && el("ul", { class: "cautions", "aria-label": "Warnings" }, data.warnings.map((words) => el("li", {}, words))),
    data.missing.map((words) => el("p", { class: "note quiet" }, words)),
    drawPosterior(data, prompt),
    data.tree && drawTree(data),
    data.chain && drawChain(data),
    drawDrafts(data),
    drawGrowth(data),
  ].flat();
}

function factsOf(entry, data) {
  const { usage } = data;
  const known = (value) => value !== null && value !== undefined;
  return [
    ["reward", show(entry.reward)],
    known(entry.ess) ? ["effective sample size", `${show(entry.ess)} of ${entry.n}`] : ["drafts", show(entry.n)],
    known(entry.k_hat) && Number.isFinite(num(entry.k_hat)) && ["k̂", show(entry.k_hat)],
    known(entry.log_z) && ["log Ẑ", signed(entry.log_z)],
    known(entry.kl) && ["KL(π‖p)", show(entry.kl)],
    known(entry.acceptance) && ["acceptance", percent(entry.acceptance)],
    known(entry.r_hat) && ["R̂", show(entry.r_hat)],
    ["tokens", show(entry.tokens)],
    ["reward calls", show(usage.reward_calls)],
    ["seconds", show(usage.seconds)],
  ].filter(Boolean);
}
