// One table says which key does what; the help overlay and the buttons' hints are made from it.
// Keys that move never decide, and keys that decide never only move.

export const KEYS = [
  { group: "Verdict", keys: ["a"], action: "confirm", text: "Confirm: the box, or all of the frame" },
  { group: "Verdict", keys: ["r"], action: "reject", text: "Reject: nothing is there" },
  { group: "Verdict", keys: ["w"], action: "wrongClass", text: "Wrong class: pick the right one" },
  { group: "Verdict", keys: ["m"], action: "missed", text: "Missed object: drag a box around it" },
  { group: "Verdict", keys: ["u"], action: "unsure", text: "Unsure" },
  { group: "Verdict", keys: ["z"], action: "undo", text: "Undo my last verdict; again goes further back" },
  { group: "Box", keys: ["Shift+Digit"], action: "class", text: "The chosen box is of this class" },
  { group: "Box", keys: ["Shift+ArrowLeft"], action: "nudgeLeft", text: "Move it by a pixel: left" },
  { group: "Box", keys: ["Shift+ArrowRight"], action: "nudgeRight", text: "right" },
  { group: "Box", keys: ["Shift+ArrowUp"], action: "nudgeUp", text: "up" },
  { group: "Box", keys: ["Shift+ArrowDown"], action: "nudgeDown", text: "down" },
  { group: "Box", keys: ["e"], action: "part", text: "These move the box, or one of its corners" },
  { group: "Box", keys: ["s"], action: "snap", text: "Back to the detector's box" },
  { group: "Box", keys: ["Enter"], action: "keep", text: "Keep the change" },
  { group: "Box", keys: ["Delete", "Backspace"], action: "remove", text: "Delete it" },
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
  { group: "Picture", keys: ["d"], action: "difference", text: "Where it differs from base" },
  { group: "Picture", keys: ["g"], action: "around", text: "One second before and after" },
  { group: "Picture", keys: ["p"], action: "play", text: "Play that second" },
  { group: "Picture", keys: ["l"], action: "burst", text: "Judge all frames of this scene together" },
  { group: "Picture", keys: ["b"], action: "boxes", text: "Boxes on or off" },
  { group: "Picture", keys: ["x"], action: "zoomBox", text: "Zoom to the box" },
  { group: "Picture", keys: ["f"], action: "fit", text: "Whole frame" },
  { group: "Picture", keys: ["v"], action: "fetchWhole", text: "Fetch what is not in full quality yet" },
  { group: "Picture", keys: ["+", "="], action: "zoomIn", text: "Zoom in (or the wheel)" },
  { group: "Picture", keys: ["-"], action: "zoomOut", text: "Zoom out" },
  { group: "Page", keys: ["n"], action: "note", text: "Write a note for the next verdict" },
  { group: "Page", keys: ["t"], action: "comment", text: "Write a comment for others on this frame" },
  { group: "Page", keys: ["o"], action: "handOver", text: "Hand it to a colleague, or back to the queue" },
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
  "Shift+Digit": "Shift 1…9",
  "Shift+ArrowLeft": "Shift ←",
  "Shift+ArrowRight": "Shift →",
  "Shift+ArrowUp": "Shift ↑",
  "Shift+ArrowDown": "Shift ↓",
  Delete: "Del",
  Backspace: "⌫",
};

const BY_KEY = new Map(KEYS.flatMap((row) => row.keys.map((key) => [key, row.action])));
const NUDGES = ["nudgeLeft", "nudgeRight", "nudgeUp", "nudgeDown"];
const REPEATS = new Set(["next", "previous", "zoomIn", "zoomOut", ...NUDGES]); // a held verdict key must decide once

const isTyping = (target) => target.closest("input, textarea, select, dialog") !== null;
const isControl = (target) => target.closest("button, a, summary, [role=slider]") !== null;

// By its place on the keyboard where Shift makes another sign of it.
function nameOf(event) {
  if (event.shiftKey && /^Digit[1-9]$/.test(event.code)) return "Shift+Digit";
  if (event.shiftKey && (event.key === "Tab" || event.key.startsWith("Arrow"))) return `Shift+${event.key}`;
  return event.key.length === 1 ? event.key.toLowerCase() : event.key;
}

// `actions`: name -> function; `hold` gets true on press and false on release.
// An action that returns false did not use its key, and the browser's own meaning stands (Tab leaves the stage).
export function attachKeys(actions, stageElement) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
    const key = nameOf(event);
    const action = BY_KEY.get(key);
    if (!action || (event.repeat && !REPEATS.has(action))) {
      if (action) event.preventDefault();
      return;
    }
    if ((action === "hold" || action === "keep") && isControl(event.target)) return;
    const moving = action === "nextBox" || action === "previousBox";
    if (moving && event.target !== stageElement && event.target !== document.body) return;
    if (actions[action](action === "class" ? Number(event.code.slice(-1)) : true) !== false) event.preventDefault();
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
