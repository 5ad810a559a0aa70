// One answer: what was asked, what was chosen, how far it can be trusted, and how it came about.

const SIGNS = [
  [(entry) => entry.error !== undefined, "!", "failed", "bad"],
  [(entry) => entry.right === true, "✓", "right", "good"],
  [(entry) => entry.right === false, "✗", "wrong", "bad"],
  [() => true, "·", "not judged", "quiet"],
];

function sign(entry) {
  const [, glyph, name, kind] = SIGNS.find(([holds]) => holds(entry));
  return el("span", { class: `sign ${kind}`, role: "img", "aria-label": name }, glyph);
}

/** The prompt; a chat as its turns, each under the name of its role. */
function drawAsked(prompt) {
  if (!prompt.turns) return el("p", { class: "asked" }, prompt.prompt);
  return el("dl", { class: "asked" }, prompt.turns.flatMap((turn) => [el("dt", { class: "quiet" }, turn.role), el("dd", {}, turn.content)]));
}

const drawFailure = (data) => [el("p", { class: "note bad" }, el("b", {}, data.error), ` ${data.message}`)];

/** The answer that was chosen, judged where there is a reference, with its numbers. title: what it is called; its answer else. */
function drawFinal(data, prompt, entry, title = entry.answer ?? (picture(data.texts[data.chosen]) ? "picture" : "no answer")) {
  return el("section", { class: "block answer-block" },
    el("h3", { class: "final" }, entry.right !== null && sign(entry), title, prompt.reference !== null && entry.right === false && el("span", { class: "quiet" }, ` instead of ${prompt.reference}`)),
    passage(data.texts[data.chosen]), el("p", { class: "facts" }, factsOf(entry, data).map(([name, value]) => el("span", {}, `${name} `, el("b", {}, value)))));
}

/** How far the answer can be trusted, and how it came about. */
function drawOrigin(data, prompt) {
  return [
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
  ].flat().filter(Boolean);
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
