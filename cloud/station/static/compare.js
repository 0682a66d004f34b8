// Which picture is on screen: the version asked for, base while it is held, or both sides of a divider.
// A learned filter can invent detail; these are the three ways to catch it at that.

import { bestVersion } from "./state.js";

export const VERSION_WORDS = { base: "Base", enhanced: "Enhanced", refined: "Refined" };

// -> { main, left }: versions to draw, `left` only while comparing.
export function shownVersions(state) {
  const wanted = bestVersion(state.review, state.version, state.learned);
  if (wanted === null) return { main: null, left: null };
  if (state.holding && state.review.images.base) return { main: "base", left: null };
  if (state.differing && state.review.images.base) return { main: wanted, left: null, against: "base" };
  const left = state.comparing && state.review.images.base && wanted !== "base" ? "base" : null;
  return { main: wanted, left };
}

export function attachDivider(stage, divider, active) {
  const place = (split) => {
    stage.setSplit(split);
    divider.style.left = `${stage.split * 100}%`;
    divider.setAttribute("aria-valuenow", String(Math.round(stage.split * 100)));
    divider.setAttribute("aria-valuetext", `base on the left ${Math.round(stage.split * 100)} percent`);
  };
  let dragging = false;
  divider.addEventListener("pointerdown", (event) => {
    dragging = true;
    divider.setPointerCapture(event.pointerId);
    event.stopPropagation();
  });
  divider.addEventListener("pointermove", (event) => {
    if (!dragging) return;
    const bounds = stage.element.getBoundingClientRect();
    place((event.clientX - bounds.left) / bounds.width);
  });
  const stop = () => {
    dragging = false;
  };
  divider.addEventListener("pointerup", stop);
  divider.addEventListener("pointercancel", stop);
  divider.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -0.02, ArrowRight: 0.02, PageDown: -0.1, PageUp: 0.1 }[event.key];
    if (step === undefined || !active()) return;
    place(stage.split + step);
    event.preventDefault();
    event.stopPropagation();
  });
  place(0.5);
}
