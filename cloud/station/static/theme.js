// Light or dark: as the system wishes, unless somebody chose otherwise in this browser.

const KEY = "secondlook.theme";
export const THEMES = ["system", "light", "dark"];

export const chosenTheme = () => {
  const chosen = localStorage.getItem(KEY);
  return THEMES.includes(chosen) ? chosen : "system";
};

export function chooseTheme(theme) {
  localStorage.setItem(KEY, theme);
  show();
}

function show() {
  const theme = chosenTheme();
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}

addEventListener("storage", show); // chosen in another window
show();
