// What is asked: a prompt, a model, a sampler with its settings. Whatever differs from the model's own way is sent.

const FIRST = 4; // settings of a sampler that are always in sight, with the sampler inside

let menu = null; // what the server offers

const modelOf = (id) => menu.models.find((model) => model.id === id);
const samplerOf = (name) => menu.samplers.find((sampler) => sampler.name === name);
const form = byId("ask");
const value = (name) => form.elements[name]?.value;

/** The settings of a sampler, with the one inside of it. */
const settingsOf = (sampler, inner) => (sampler.inners === null ? sampler.settings : sampler.inners[inner ?? sampler.inner] ?? sampler.settings);

/** How the model would answer with this sampler, where nothing else is said. */
function startOf(model, name, inner) {
  if (name === model.sampler && inner === model.inner) return model;
  const sampler = samplerOf(name);
  const settings = Object.fromEntries(settingsOf(sampler, inner).map((setting) => [setting.name, setting.default]));
  const tilt = sampler.reward === null ? { reward: model.reward, beta: model.beta } : { reward: sampler.reward, beta: 1 };
  return { ...model, ...tilt, sampler: name, inner, settings, select: sampler.select };
}

const field = (words, control, help = "") => el("label", { title: help || null }, words, control);
const picked = (name, chosen, options, heard = null) =>
  el("select", { name, ...(heard && { on: { change: heard } }) }, options.map((option) => el("option", { value: option, selected: option === chosen }, option)));

/** Draw the choices below the prompt anew. base: how the model answers where nothing else is said. */
function drawChoices(base) {
  const sampler = samplerOf(base.sampler);
  const first = sampler.inners === null ? FIRST : FIRST - 1;
  const settings = settingsOf(sampler, base.inner).map((setting) => drawSetting(setting, base.settings[setting.name]));
  const opened = byId("choices").querySelector("details")?.open ?? false;
  byId("choices").replaceChildren(
    field("Model", picked("model", base.id, menu.models.map((model) => model.id), () => rebase(true))),
    field("Sampler", picked("sampler", base.sampler, menu.samplers.map((each) => each.name), () => rebase(false))),
    el("p", { class: "about wide", id: "sampler-help" }, `${sampler.help}.`),
    ...(sampler.inners === null ? [] : [field("inside", picked("inner", base.inner, Object.keys(sampler.inners), () => rebase(false)))]),
    ...settings.slice(0, first),
    field("reward", picked("reward", base.reward, menu.rewards)),
    field("β", number("beta", base.beta, { min: 0, step: "any", required: true }), "the lower, the more the reward counts"),
    el("details", { class: "wide", open: opened }, el("summary", {}, "More"), el("div", { class: "choices" },
      settings.slice(first),
      field("select", picked("select", base.select, menu.selects), "how the answer is picked among the drafts"),
      field("answer", picked("answer", base.answer, menu.answers), "how votes read a text"),
      field("stop rule", el("input", { name: "until", value: base.until ?? "", placeholder: "none", spellcheck: "false" }), menu.rules.join("\n")),
      field("token cap", number("max_tokens", null, { min: 1, placeholder: String(menu.max_tokens) })),
      field("temperature", number("temperature", null, { min: 0, step: "any", placeholder: "the model's" })),
      field("seed", number("seed", null, { min: 0, placeholder: "any" })),
      field("budget", number("tokens", null, { min: 1, placeholder: "tokens" }), "tokens after which the answer is the best so far"),
      el("label", { class: "wide" }, "system message", el("input", { name: "system", placeholder: "none", spellcheck: "false" })))),
    el("label", { class: "wide tick" }, el("input", { type: "checkbox", name: "beside", checked: true }), "a plain draw beside it"),
  );
}

/** Another model or sampler was picked: its own settings take the place of those before. */
function rebase(model) {
  const kept = Object.fromEntries(["max_tokens", "temperature", "seed", "tokens", "system"].map((name) => [name, value(name)]));
  const { beside } = form.elements;
  const [to, focused] = [modelOf(value("model")), document.activeElement?.name];
  const sampler = model ? to.sampler : value("sampler");
  const same = sampler === to.sampler;
  const inner = samplerOf(sampler).inners === null ? null : model ? to.inner : value("inner") ?? (same ? to.inner : samplerOf(sampler).inner);
  const was = beside.checked;
  drawChoices(startOf(to, sampler, inner));
  for (const [name, text] of Object.entries(kept)) form.elements[name].value = text;
  form.elements.beside.checked = was;
  if (focused) form.elements[focused]?.focus();
}

const number = (name, given, more) => el("input", { type: "number", name, value: given ?? "", inputmode: more.step ? "decimal" : "numeric", ...more });

function drawSetting(setting, given) {
  const name = `of-${setting.name}`;
  const words = setting.name.replaceAll("_", " ");
  const required = !setting.optional;
  const placeholder = setting.optional ? "none" : null;
  if (setting.type === "flag") return el("label", { class: "tick", title: setting.help }, el("input", { type: "checkbox", name, checked: given === true }), words);
  if (setting.type === "choice") return field(words, picked(name, given, setting.choices), setting.help);
  if (setting.type === "whole") return field(words, number(name, given, { required, placeholder }), setting.help);
  if (setting.type === "number") return field(words, number(name, given, { required, placeholder, step: "any" }), setting.help);
  const text = Array.isArray(given) ? given.join(", ") : String(given ?? "").replaceAll("\n", "\\n");
  return field(words, el("input", { name, value: text, required, placeholder, spellcheck: "false" }), setting.help);
}

/** A setting's value as the server takes it; undefined where nothing is typed. */
function readSetting(setting) {
  const control = form.elements[`of-${setting.name}`];
  const text = control.value.trim();
  if (setting.type === "flag") return control.checked;
  if (setting.type === "choice") return setting.choices.find((choice) => String(choice) === control.value);
  if (text === "") return setting.optional ? null : undefined;
  if (setting.type === "text") return control.value;
  if (setting.type === "numbers") return text.split(",").every((part) => part.trim() !== "" && Number.isFinite(Number(part))) ? text.split(",").map(Number) : text;
  if (setting.type === "number or text") return /^\d+$/.test(text) ? Number(text) : control.value.replaceAll("\\n", "\n").replaceAll("\\t", "\t");
  return Number(text);
}

/** The request as the form has it: {body, beside}, where `beside` is that of the plain draw, or null. */
function readForm() {
  const model = modelOf(value("model"));
  const [sampler, inner] = [value("sampler"), value("inner") ?? null];
  const base = startOf(model, sampler, inner);
  const changes = {};
  if (base !== model) changes.sampler = sampler;
  if (base !== model && inner !== null) changes.inner = inner;
  for (const setting of settingsOf(samplerOf(sampler), inner)) {
    const given = readSetting(setting);
    if (given !== undefined && JSON.stringify(given) !== JSON.stringify(base.settings[setting.name] ?? null)) changes[setting.name] = given;
  }
  const recipe = { select: value("select"), answer: value("answer"), reward: value("reward"), beta: Number(value("beta")), until: value("until").trim() || null };
  for (const [name, given] of Object.entries(recipe)) if (given !== base[name] && given !== null) changes[name] = given;
  if (value("tokens") !== "") changes.budget = { tokens: Number(value("tokens")) };
  const system = value("system").trim();
  const messages = [...(system === "" ? [] : [{ role: "system", content: system }]), { role: "user", content: value("prompt") }];
  const sampling = Object.fromEntries(["max_tokens", "temperature", "seed"].filter((name) => value(name) !== "").map((name) => [name, Number(value(name))]));
  const body = { model: model.id, messages, ...sampling, ...(Object.keys(changes).length > 0 && { exptilt: changes }) };
  const tilt = recipe.reward === "none" ? {} : { exptilt: { reward: recipe.reward, beta: recipe.beta } };
  return { body, beside: form.elements.beside.checked ? { model: `${menu.name}@plain`, messages, ...sampling, ...tilt } : null };
}

/** Mark the field that the server names, or none. */
function blame(param) {
  for (const control of form.querySelectorAll("[aria-invalid]")) control.removeAttribute("aria-invalid");
  const name = (param ?? "").replace(/^exptilt\./, "").replace(/^budget\./, "");
  const control = form.elements[`of-${name}`] ?? form.elements[{ messages: "prompt" }[name] ?? name];
  if (!control?.setAttribute) return;
  control.setAttribute("aria-invalid", "true");
  const details = control.closest("details");
  if (details) details.open = true;
  control.focus();
}
