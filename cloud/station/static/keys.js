// One table says which key does what; the help overlay and the buttons' hints are made from it.
// Keys that move never decide, and keys that decide never only move.

export const KEYS = [
  { group: "Verdict", keys: ["a"], action: "confirm", text: "Confirm: the box, or all of the frame" },
  { group: "Verdict", keys: ["r"], action: "reject", text: "Reject: nothing is there" },
  { group: "Verdict", keys: ["w"], action: "wrongClass", text: "Wrong class: pick the right one" },
  { group: "Verdict", keys: ["m"], action: "missed", text: "Missed object: drag a box around it" },
  { group: "Verdict", keys: ["u"], action: "unsure", text: "Unsure" },
  { group: "Verdict", keys: ["z"], action: "undo", text: "Undo my last verdict; again goes further back" },
  { group: "Move", keys: ["j", "ArrowDown", "ArrowRight"], action: "next", text: "Next frame" },
  { group: "Move", keys: ["k", "ArrowUp", "ArrowLeft"], action: "previous", text: "Previous frame" },
  { group: "Move", keys: ["Tab"], action: "nextBox", text: "Next box" },
  { group: "Move", keys: ["Shift+Tab"], action: "previousBox", text: "Previous box" },
  { group: "Move", keys: ["Escape"], action: "cancel", text: "No box: verdicts are for the whole frame" },
  { group: "Picture", keys: ["1"], action: "base", text: "Base" },
  { group: "Picture", keys: ["2"], action: "enhanced", text: "Enhanced" },
  { group: "Picture", keys: ["3"], action: "refined", text: "Refined" },
  { group: "Picture", keys: [" "], action: "hold", text: "Hold: show base" },
  { group: "Picture", keys: ["c"], action: "compare", text: "Compare with base, divider" },
  { group: "Picture", keys: ["b"], action: "boxes", text: "Boxes on or off" },
  { group: "Picture", keys: ["x"], action: "zoomBox", text: "Zoom to the box" },
  { group: "Picture", keys: ["f"], action: "fit", text: "Whole frame" },
  { group: "Picture", keys: ["+", "="], action: "zoomIn", text: "Zoom in (or the wheel)" },
  { group: "Picture", keys: ["-"], action: "zoomOut", text: "Zoom out" },
  { group: "Page", keys: ["n"], action: "note", text: "Write a note for the next verdict" },
  { group: "Page", keys: ["h"], action: "history", text: "History and back" },
  { group: "Page", keys: ["?"], action: "help", text: "These keys" },
];

const NAMES = {
  " ": "Space",
  Escape: "Esc",
  ArrowDown: "↓",
  ArrowRight: "→",
  ArrowUp: "↑",
  ArrowLeft: "←",
  "Shift+Tab": "Shift Tab",
};

const BY_KEY = new Map(KEYS.flatMap((row) => row.keys.map((key) => [key, row.action])));
const REPEATS = new Set(["next", "previous", "zoomIn", "zoomOut"]); // a held verdict key must decide once

const isTyping = (target) => target.closest("input, textarea, select, dialog") !== null;
const isControl = (target) => target.closest("button, a, summary, [role=slider]") !== null;

// `actions`: name -> function; `hold` gets true on press and false on release.
// An action that returns false did not use its key, and the browser's own meaning stands (Tab leaves the stage).
export function attachKeys(actions, stageElement) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
    const key = event.key === "Tab" && event.shiftKey ? "Shift+Tab" : event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const action = BY_KEY.get(key);
    if (!action || (event.repeat && !REPEATS.has(action))) {
      if (action) event.preventDefault();
      return;
    }
    if (action === "hold" && isControl(event.target)) return;
    const moving = action === "nextBox" || action === "previousBox";
    if (moving && event.target !== stageElement && event.target !== document.body) return;
    if (actions[action](true) !== false) event.preventDefault();
  });
  document.addEventListener("keyup", (event) => {
    if (event.key === " ") actions.hold(false);
  });
  window.addEventListener("blur", () => actions.hold(false));
}

export function renderHelp(container) {
  const groups = new Map();
  for (const row of KEYS) groups.set(row.group, [...(groups.get(row.group) ?? []), row]);
  container.replaceChildren(
    ...[...groups].map(([name, rows]) => {
      const section = document.createElement("section");
      const heading = document.createElement("h3");
      heading.textContent = name;
      const list = document.createElement("dl");
      for (const row of rows) {
        const term = document.createElement("dt");
        for (const key of row.keys) {
          const cap = document.createElement("kbd");
          cap.textContent = NAMES[key] ?? key;
          term.append(cap);
        }
        const text = document.createElement("dd");
        text.textContent = row.text;
        list.append(term, text);
      }
      section.append(heading, list);
      return section;
    }),
  );
}
