// The row of buttons below the picture. Their words follow the frame: one without a box is not "confirmed".

import { boxesOf } from "./boxmodel.js";
import { MOST_UNSAVED } from "./outbox.js";
import { element } from "./panels.js";
import { frameVerdict, PENDING } from "./state.js";

const BUTTONS = [
  ["confirm", "Confirm", "a", "good"],
  ["reject", "Reject", "r", "bad"],
  ["wrongClass", "Wrong class", "w", ""],
  ["missed", "Missed", "m", ""],
  ["unsure", "Unsure", "u", ""],
  ["undo", "Undo", "z", "quiet after-gap"],
  ["previous", "‹", "k", "quiet", "Previous frame"],
  ["next", "›", "j", "quiet", "Next frame"],
];

export function buildVerdictBar(container, actions) {
  container.append(element("span", { id: "target", className: "target" }));
  for (const [action, words, key, kind, name] of BUTTONS) {
    const button = element("button", { className: `verdict ${kind}`, "data-action": action });
    button.append(element("span", { text: words }), " ", element("kbd", { text: key }));
    if (name) {
      button.firstElementChild.setAttribute("aria-hidden", "true");
      button.prepend(element("span", { className: "hidden", text: name }));
    }
    button.addEventListener("click", () => actions[action]());
    container.append(button);
  }
}

export function renderVerdictBar(container, state) {
  const { review, selectedBox } = state;
  const boxes = boxesOf(review);
  const chosen = selectedBox === null ? null : boxes[selectedBox];
  container.querySelector("#target").textContent = chosen ? `Box ${selectedBox + 1} · ${chosen.label}` : "Whole frame";
  const room = state.unsaved < MOST_UNSAVED;
  const judging = state.mayJudge && room && Boolean(review) && !PENDING.has(review.state);
  for (const button of container.querySelectorAll("button:not(.quiet)")) button.disabled = !judging;
  const button = (action) => container.querySelector(`[data-action=${action}]`);
  button("undo").disabled = !state.mayJudge;
  // Where there is no box there is no class; without it the row fits beside the longer words of such frames.
  button("wrongClass").hidden = Boolean(review) && !boxes.length;
  for (const [action, words] of BUTTONS.slice(0, 2)) {
    button(action).firstElementChild.textContent = (chosen ? null : frameVerdict(review, action))?.[1] ?? words;
  }
}
