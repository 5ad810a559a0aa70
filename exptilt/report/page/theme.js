// Light, dark, or as the system has it.

const THEMES = ["auto", "light", "dark"];

/** Keep the choice; a browser may refuse storage to files, then it lasts as long as the page. */
function keepTheme(theme) {
  try {
    localStorage.setItem("exptilt-theme", theme);
  } catch (refused) {
    console.info(`the colours are not kept: ${refused.message}`);
  }
}

function keptTheme() {
  try {
    const kept = localStorage.getItem("exptilt-theme");
    return THEMES.includes(kept) ? kept : "auto";
  } catch (refused) {
    console.info(`the colours were not kept: ${refused.message}`);
    return "auto";
  }
}

function paint(theme) {
  document.documentElement.dataset.theme = theme;
  byId("theme").textContent = { auto: "Auto", light: "Light", dark: "Dark" }[theme];
  byId("theme").setAttribute("aria-label", `Colours: ${theme}. Press for the next.`);
}

function nextTheme() {
  const theme = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length];
  paint(theme);
  keepTheme(theme);
}

byId("theme").addEventListener("click", nextTheme);
paint(keptTheme());
