// The first view: how the methods compare, what they cost, and what speaks against trusting them.

const MEASURES = [
  ["ess", "Effective sample size", "how many equally weighted drafts the population is worth; below 10, averages and votes are noisy"],
  ["k_hat", "k̂", "how heavy the tail of the weights is; above 0.7, log Ẑ and averages cannot be trusted"],
  ["acceptance", "Acceptance", "share of a chain's moves that were accepted; below 5 % it hardly left its start"],
  ["r_hat", "R̂", "whether the parts of a chain agree; above 1.05 they do not"],
  ["log_z", "log Ẑ", "log of the mean of exp(r/β) under the model, in nats; methods with one target estimate one number"],
  ["kl", "KL(π‖p)", "how far the target lies from the model, in nats"],
];

const swatch = (number) => el("span", { class: "swatch", "aria-hidden": "true", style: { background: ink(number) } });
const section = (title, about, ...content) => el("section", { class: "block" }, el("h2", {}, title), about && el("p", { class: "about" }, about), content);

function drawOverview() {
  const plot = computePlot();
  byId("overview-view").replaceChildren(
    lede(),
    ...[
      plot && section(judged ? "Accuracy for the tokens" : "Reward for the tokens", plotAbout(), el("div", { class: "scroll" }, plot)),
      section("Cost", "Means per prompt that was answered. Tokens are generated and scored, by the model and its proposal together; reused are drafts whose reward was known already." + flopsAbout(), costTable()),
      calibration(),
      section("Diagnostics", "Each histogram holds one value per prompt; beside it the median, and the range that holds the middle half.", diagnostics()),
      warnings(),
      section("Settings", null, methods.map((method, number) => el("details", {}, el("summary", {}, swatch(number), `${method.name} `, el("span", { class: "quiet" }, method.label)), el("pre", {}, JSON.stringify(method.settings, null, 2))))),
    ].filter(Boolean),
  );
}

function lede() {
  const failed = methods.reduce((sum, method) => sum + method.failed, 0);
  const stopped = methods.reduce((sum, method) => sum + method.stopped, 0);
  const parts = [
    `${several(methods.length, "method")} on ${several(prompts.length, "prompt")}`,
    judged ? "judged by references" : "no references given, so rewards take the place of accuracy",
    failed > 0 && `${several(failed, "failure")}`,
    stopped > 0 && `${several(stopped, "run")} stopped by the budget`,
  ].filter(Boolean);
  const unlike = new Map();
  for (const { name, differs } of methods) {
    const what = differs.join(" and another ");
    if (what !== "") unlike.set(what, [...(unlike.get(what) ?? []), name]);
  }
  return el("div", { class: "lede" }, el("p", {}, `${parts.join(" · ")}.`),
    [...unlike].map(([what, names]) => el("p", { class: "note" }, `Another ${what} than ${methods[0].name}: ${names.join(", ")}. The difference between them is not one of samplers alone.`)));
}

function plotAbout() {
  if (!judged) return "The mean reward of the chosen responses, with its 95 % interval over prompts.";
  const curves = methods.some((method) => method.curve.length > 1);
  return "Points: the answers each run chose, with 95 % intervals over prompts (Wilson); a prompt that failed counts as wrong."
    + (curves ? " Lines: the weighted vote among what had been drawn by then, as if the run had ended there." : "");
}

function flopsAbout() {
  if (!methods.some((method) => method.flops)) return "";
  return " GFLOPs are 2 per parameter and token, prefilled ones included, of the model, its proposal and the reward model; attention is left out.";
}

function costTable() {
  const proposal = methods.some((method) => method.cost.proposal > 0);
  const flops = methods.some((method) => method.flops);
  const head = ["Method", judged ? "Accuracy" : "Reward", "Answered", "Tokens", proposal && "by proposal", "Forwards", flops && "GFLOPs", "Prefilled", "from cache", "Reward calls", "Rated", "Reused", "Seconds"].filter(Boolean);
  return table("Cost", head, methods.map((method, number) => {
    const { cost } = method;
    const score = judged ? method.accuracy : method.reward;
    const write = judged ? (value) => percent(value, 1) : show;
    const numbers = [cost.tokens, proposal && cost.proposal, cost.forwards].filter((value) => value !== false);
    const more = [cost.prompt, cost.cached, cost.reward_calls, cost.rated, cost.reused, cost.seconds];
    return el("tr", {},
      el("th", { scope: "row" }, swatch(number), method.name, el("small", {}, method.label)),
      el("td", {}, score ? write(score.value) : "–", score && el("small", {}, `${write(score.low)} – ${write(score.high)}`)),
      el("td", {}, method.answered.toLocaleString("en"), method.failed + method.stopped > 0 && el("small", {}, [method.failed && `${method.failed} failed`, method.stopped && `${method.stopped} stopped`].filter(Boolean).join(", "))),
      cells("td", numbers.map((value) => show(value))),
      flops && el("td", {}, gigaflops(method.flops)),
      cells("td", more.map((value) => show(value))));
  }));
}

/** The sum, and under it its parts where there are several: the model, its proposal, the reward. */
function gigaflops(flops) {
  if (flops === null) return "–";
  const parts = flops.filter((value) => value !== 0).map((value) => (value === null ? NaN : num(value) / 1e9));
  return [show(parts.reduce((sum, value) => sum + value, 0)), parts.length > 1 && el("small", {}, parts.map((value) => show(value)).join(" + "))];
}

function calibration() {
  const shown = methods.map((method, number) => [method, number]).filter(([method]) => method.calibration);
  if (shown.length === 0) return null;
  return section("Calibration", "Across: the weight of a prompt's most probable answer. Up: how often it was right, with 95 % intervals. Below the diagonal the posterior is too sure of itself. Larger dots hold more prompts.",
    el("div", { class: "multiples" }, shown.map(([method, number]) => el("figure", {}, el("figcaption", {}, swatch(number), method.name,
      el("small", {}, `mean gap ${percent(method.calibration.error, 1)} · Brier ${show(method.calibration.brier)}`)), calibrationPlot(method, number)))));
}

function diagnostics() {
  const values = (field, number) => prompts.map((prompt) => num(prompt.by[number]?.[field])).filter((value) => !Number.isNaN(value));
  const rows = MEASURES.flatMap(([field, name, about]) => {
    const each = methods.map((_, number) => values(field, number).sort((a, b) => a - b));
    const finite = each.flat().filter(Number.isFinite);
    if (each.every((list) => list.length === 0)) return [];
    const range = [finite.reduce((a, b) => Math.min(a, b), Infinity), finite.reduce((a, b) => Math.max(a, b), -Infinity)];
    return [el("tr", {}, el("th", { scope: "row" }, name, el("small", {}, about)), each.map((list, number) => el("td", {}, measure(list, number, range))))];
  });
  return table("Diagnostics", ["", ...methods.map((method, number) => el("span", {}, swatch(number), method.name))], rows);
}

function measure(list, number, range) {
  if (list.length === 0) return el("span", { class: "quiet" }, "–");
  const finite = list.filter(Number.isFinite);
  const beyond = list.filter((value) => value === Infinity).length;
  const bounded = list.filter((value) => value === -Infinity).length;
  return [
    finite.length > 0 && histogram(finite, number, range),
    finite.length > 0 && el("span", { class: "median" }, show(quantile(finite, 0.5))),
    finite.length > 1 && el("small", {}, `${show(quantile(finite, 0.25))} – ${show(quantile(finite, 0.75))}`),
    beyond > 0 && el("small", {}, `${beyond} too small to tell`),
    bounded > 0 && el("small", {}, `${bounded} with a bounded tail`),
  ];
}

function warnings() {
  if (report.warnings.length === 0) return section("Warnings", "None: nothing that is measured speaks against these numbers.");
  const rows = report.warnings.map((text, kind) => el("tr", {}, el("th", { scope: "row", class: "words" }, text),
    methods.map((method, number) => {
      const count = prompts.filter((prompt) => prompt.by[number]?.warnings?.includes(kind)).length;
      return el("td", {}, count === 0 ? el("span", { class: "quiet" }, "–") : el("button", { type: "button", class: "plain", "aria-label": `${several(count, "prompt")} of ${method.name} with this warning`, on: { click: () => showWarned(number, kind) } }, count.toLocaleString("en")));
    })));
  return section("Warnings", "How many prompts of each method have them; a number leads to these prompts.", table("Warnings", ["", ...methods.map((method, number) => el("span", {}, swatch(number), method.name))], rows));
}
