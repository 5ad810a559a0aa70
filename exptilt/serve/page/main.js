// One question at a time: asked, watched, cancelled.

const PAUSE = 60; // milliseconds between two drawings
let current = null; // {stop, ...} of the question under way

/** An answer on its way: what came of it so far. */
function follow(body, stop, draw) {
  const run = { body, began: performance.now(), ended: null, state: "running", words: "Drawing", error: null, text: "", grown: null, latest: null, populations: 0, tokens: 0, calls: 0, seed: null };
  let due = null;
  const later = () => {
    due ??= setTimeout(() => {
      due = null;
      draw(run);
    }, PAUSE);
  };
  run.over = (async () => {
    try {
      for await (const { event, data } of eventsOf(body, stop.signal)) {
        take(run, event, data);
        later();
      }
      finish(run, "done", "Done");
    } catch (error) {
      if (stop.signal.aborted) finish(run, "cancelled", "Cancelled");
      else {
        run.error = error;
        finish(run, "failed", "Failed");
      }
    }
    clearTimeout(due);
    draw(run);
    return run;
  })();
  later();
  return run;
}

function take(run, event, data) {
  if (event === "begin") run.seed = data.seed;
  else if (event === "text") run.text += data.text;
  else if (event === "growth") run.grown = data;
  else if (event === "progress") run.tokens = Math.max(run.tokens, data.generated ?? 0);
  else {
    run.latest = data;
    run.populations = data.detail.growth.length;
    run.tokens = Math.max(run.tokens, data.glance.tokens);
    run.calls = data.detail.usage.reward_calls;
  }
}

const finish = (run, state, words) => Object.assign(run, { state, words, ended: performance.now() });

function busy(on) {
  byId("go").disabled = on;
  byId("cancel").hidden = !on;
  byId("outcome").setAttribute("aria-busy", String(on));
}

async function draw() {
  if (current !== null || menu === null || !form.reportValidity()) return;
  const { body, beside } = readForm();
  blame(null);
  byId("trouble").replaceChildren();
  byId("plain").hidden = beside === null;
  byId("beside").classList.toggle("two", beside !== null);
  byId("status").textContent = "Drawing an answer.";
  current = { stop: new AbortController() };
  busy(true);
  byId("origin").replaceChildren();
  const run = follow(body, current.stop, (state) => { drawCost(state); drawRun(state); });
  const other = beside === null ? null : follow(beside, current.stop, drawPlain);
  const clock = setInterval(() => run.state === "running" && drawCost(run), 100);
  if (window.matchMedia("(max-width: 56rem)").matches) byId("outcome").scrollIntoView({ block: "start" });
  await Promise.all([run.over, other?.over]);
  clearInterval(clock);
  current = null;
  busy(false);
  tell(run);
}

/** The end of a question in words; where the server refused it, the field at fault. */
function tell(run) {
  if (run.state === "failed") {
    fail(run.error);
    if (run.latest === null) {
      byId("chosen").replaceChildren();
      byId("cost").replaceChildren();
      byId("plain").hidden = true;
    }
  } else byId("status").textContent = run.state === "done" ? `Done: ${show(run.tokens)} tokens.` : "Cancelled.";
}

function fail(error) {
  byId("status").textContent = "";
  byId("trouble").replaceChildren(el("p", { class: "note bad" }, el("b", {}, error.code?.replaceAll("_", " ") ?? "no answer"), ` ${error.message}`));
  if (error.status === 401) openDoor("The key is not the right one.");
  else blame(error.param ?? null);
}

// ----------------------------------------------------------------------------------------------------------- the start

function welcome() {
  byId("chosen").replaceChildren(el("div", { class: "welcome" },
    el("p", { class: "formula" }, "π(y|x) ∝ p(y|x) · exp(r(x,y)/β)"),
    el("p", {}, "The model p writes many drafts; the reward r says which are good; the sampler turns both into draws from π. Type a prompt, and watch how its answer is found.")));
}

function openDoor(words) {
  byId("door-words").textContent = words;
  if (!byId("door").open) byId("door").showModal();
  byId("key").select();
}

/** Ask the server what it offers; where it wants a key, ask for that. */
async function enter() {
  try {
    menu = await (await ask("offers")).json();
  } catch (error) {
    if (error.status === 401) openDoor(apiKey === null ? "This server asks for a key." : "The key is not the right one.");
    else fail(error);
    return;
  }
  byId("door").close();
  byId("other-key").hidden = apiKey === null;
  byId("title").replaceChildren("exptilt ", el("span", { class: "quiet" }, menu.name));
  document.title = `${menu.name} · exptilt`;
  drawChoices(menu.models[0]);
  byId("go").disabled = false;
  byId("prompt").focus();
}

const KEYS = { t: nextTheme, "/": () => byId("prompt").focus(), "?": () => byId("help").showModal() };

document.addEventListener("keydown", (event) => {
  if (byId("help").open || byId("door").open) return;
  const { key, target } = event;
  const writes = target.matches("input:not([type=checkbox]), select, textarea");
  const act = key === "Enter" && (event.ctrlKey || event.metaKey) ? draw : event.ctrlKey || event.metaKey || event.altKey ? null : key === "Escape" ? () => current?.stop.abort() : writes ? null : KEYS[key] ?? null;
  if (act === null) return;
  event.preventDefault();
  act();
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  draw();
});
byId("cancel").addEventListener("click", () => current?.stop.abort());
byId("keys").addEventListener("click", () => byId("help").showModal());
byId("other-key").addEventListener("click", () => openDoor("Another key takes the place of the one that was typed."));
byId("door-form").addEventListener("submit", (event) => {
  event.preventDefault();
  keepKey(byId("key").value.trim());
  enter();
});

welcome();
enter().finally(() => {
  document.documentElement.dataset.ready = "true";
});
