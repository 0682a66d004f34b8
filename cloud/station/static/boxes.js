// Boxes over the picture (SVG in stage pixels, so that strokes and labels keep their size) and the tool
// that draws a missed object.

import { boxVerdict, missedObjects } from "./state.js";

const SVG = "http://www.w3.org/2000/svg";
const MIN_SIDE = 3; // frame pixels; less is a click, not a box

function svg(name, attributes, parent) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  parent?.append(node);
  return node;
}

const MARKS = { confirm: "✓", reject: "✕", wrong_class: "→", unsure: "?" };

export function boxCaption(detection, verdict) {
  const score = `${Math.round(detection.score * 100)}%`;
  if (!verdict) return `${detection.label} ${score}`;
  if (verdict.verdict === "wrong_class") return `${detection.label} → ${verdict.label}`;
  return `${MARKS[verdict.verdict]} ${detection.label} ${score}`;
}

function drawBox(overlay, stage, box, caption, classes) {
  const [x0, y0] = stage.toStage(box[0], box[1]);
  const [x1, y1] = stage.toStage(box[2], box[3]);
  const group = svg("g", { class: `box ${classes.join(" ")}` }, overlay);
  const shape = { x: x0, y: y0, width: Math.max(x1 - x0, 0), height: Math.max(y1 - y0, 0), rx: 2 };
  svg("rect", { ...shape, class: "halo" }, group);
  svg("rect", { ...shape, class: "line" }, group);
  if (!caption) return;
  const text = svg("text", { x: x0 + 6, y: 0 }, group);
  text.textContent = caption;
  const width = text.getComputedTextLength() + 12;
  const above = y0 - 19 >= 0 ? y0 - 19 : Math.max(y0, 0);
  text.setAttribute("y", above + 13);
  group.insertBefore(svg("rect", { x: x0, y: above, width, height: 18, rx: 3, class: "plate" }), text);
}

export function drawBoxes(overlay, stage, state, rubber) {
  overlay.replaceChildren();
  if (!state.review) return;
  if (state.showBoxes) {
    state.review.detections.forEach((detection, index) => {
      const verdict = boxVerdict(state.review, index);
      const classes = [verdict ? `is-${verdict.verdict}` : "is-open"];
      if (index === state.selectedBox) classes.push("selected");
      drawBox(overlay, stage, detection.box, boxCaption(detection, verdict), classes);
    });
    for (const missed of missedObjects(state.review)) {
      drawBox(overlay, stage, missed.box, `+ ${missed.label}`, ["is-missed"]);
    }
  }
  if (rubber) drawBox(overlay, stage, rubber, "", ["is-missed", "rubber"]);
}

// Index of the smallest box under a stage position, or null.
export function boxAt(stage, review, stageX, stageY) {
  const [x, y] = stage.toFrame(stageX, stageY);
  let found = null;
  let smallest = Infinity;
  review.detections.forEach(({ box: [x0, y0, x1, y1] }, index) => {
    const area = (x1 - x0) * (y1 - y0);
    if (x >= x0 && x <= x1 && y >= y0 && y <= y1 && area < smallest) {
      found = index;
      smallest = area;
    }
  });
  return found;
}

// Drag a rectangle while `active()`. `onChange(box|null)` follows the drag, `onDone(box)` ends it.
export function attachDrawing(stage, active, onChange, onDone) {
  const element = stage.element;
  let start = null;
  const framePoint = (event) => {
    const bounds = element.getBoundingClientRect();
    return stage.toFrame(event.clientX - bounds.left, event.clientY - bounds.top);
  };
  const boxTo = ([x, y]) => [
    Math.min(start[0], x),
    Math.min(start[1], y),
    Math.max(start[0], x),
    Math.max(start[1], y),
  ];
  element.addEventListener("pointerdown", (event) => {
    if (!active() || event.button !== 0) return;
    start = framePoint(event);
    element.setPointerCapture(event.pointerId);
  });
  element.addEventListener("pointermove", (event) => {
    if (start) onChange(boxTo(framePoint(event)));
  });
  element.addEventListener("pointerup", (event) => {
    if (!start) return;
    const box = boxTo(framePoint(event));
    start = null;
    onChange(null);
    if (active() && box[2] - box[0] >= MIN_SIDE && box[3] - box[1] >= MIN_SIDE) onDone(box);
  });
  element.addEventListener("pointercancel", () => {
    start = null;
    onChange(null);
  });
}
