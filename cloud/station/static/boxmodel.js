// The boxes of a frame as reviewers see them, and what dragging and keys make of one. Frame pixels; nothing is drawn here.

import { boxVerdict, missedObjects } from "./state.js";

const LEAST_SIDE = 3; // frame pixels
const COLOURS = ["#56b4e9", "#ffb000", "#2ed3a1", "#f0e442", "#ff8f66", "#d3a6ff", "#ffffff", "#a6e22e"];
const DASHES = ["", "10 4", "3 3", "14 3 3 3"];

// Detections first, then what people drew. `box` is where it is by the last verdict, `detected` where the detector had it.
export function boxesOf(review) {
  if (!review) return [];
  const found = review.detections.map((detection, index) => {
    const verdict = boxVerdict(review, index);
    const corrected = verdict?.verdict === "corrected";
    return {
      index,
      verdict,
      label: verdict?.label ?? detection.label,
      detectedLabel: detection.label,
      score: detection.score,
      box: corrected ? verdict.box : detection.box,
      detected: detection.box,
      object: detection.object ?? null, // the thing that it shows, over the frames of its camera
    };
  });
  const drawn = missedObjects(review).map((verdict) => ({
    index: null,
    verdict,
    label: verdict.label,
    detectedLabel: null,
    score: null,
    box: verdict.box,
    detected: null,
    object: null,
  }));
  return [...found, ...drawn];
}

export const isShown = (state, box) => box.score === null || box.score >= state.minScore;

const MARKS = { confirm: "✓", reject: "✕", unsure: "?", corrected: "✎" };

export function captionOf({ verdict, label, detectedLabel, score }) {
  if (score === null) return `+ ${label}`;
  const percent = `${Math.round(score * 100)}%`;
  if (!verdict) return `${label} ${percent}`;
  const changed = label === detectedLabel ? `${label} ${percent}` : `${detectedLabel} → ${label}`;
  return verdict.verdict === "wrong_class" ? changed : `${MARKS[verdict.verdict]} ${changed}`;
}

// A colour and a pattern a class, the same on every page: with the name beside it, three ways to tell classes apart.
export function styleOf(label) {
  let hash = 7;
  for (const letter of label.toLowerCase()) hash = (hash * 31 + letter.codePointAt(0)) >>> 0;
  return { colour: COLOURS[hash % COLOURS.length], dash: DASHES[Math.floor(hash / COLOURS.length) % DASHES.length] };
}

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

export function movedBox([x0, y0, x1, y1], dx, dy, { width, height }) {
  const x = clamp(dx, -x0, width - x1);
  const y = clamp(dy, -y0, height - y1);
  return [x0 + x, y0 + y, x1 + x, y1 + y];
}

// `edges`: which sides go along, as "x0", "y1".
export function resizedBox(box, edges, dx, dy, { width, height }) {
  const [x0, y0, x1, y1] = box;
  return [
    edges.includes("x0") ? clamp(x0 + dx, 0, x1 - LEAST_SIDE) : x0,
    edges.includes("y0") ? clamp(y0 + dy, 0, y1 - LEAST_SIDE) : y0,
    edges.includes("x1") ? clamp(x1 + dx, x0 + LEAST_SIDE, width) : x1,
    edges.includes("y1") ? clamp(y1 + dy, y0 + LEAST_SIDE, height) : y1,
  ];
}

// Sides that come within `reach` of a side of another box are laid on it; those that move alone.
export function snapped(box, edges, others, reach) {
  const result = [...box];
  for (const [at, edge] of ["x0", "y0", "x1", "y1"].entries()) {
    if (!edges.includes(edge)) continue;
    const lines = others.flatMap((other) => [other[at % 2], other[(at % 2) + 2]]);
    const nearest = Math.min(...lines.map((line) => Math.abs(line - box[at])));
    if (nearest <= reach) result[at] = lines.find((line) => Math.abs(line - box[at]) === nearest);
  }
  return result[2] - result[0] >= LEAST_SIDE && result[3] - result[1] >= LEAST_SIDE ? result : box;
}

export const rounded = (box) => box.map((value) => Math.round(value * 10) / 10);
