// The last day of a camera: frames, reviews, what was dropped and what nobody looked at, and the objects that it had in view.

import { BASE } from "./base.js";
import { styleOf } from "./boxmodel.js";
import { element } from "./panels.js";
import { duration, utc, when } from "./times.js";

const LANE = 6; // height of an object's line
const MOST_LANES = 8;
const MOST_LISTED = 6;
const MOST_TOLD = 200; // by the station
const SVG = "http://www.w3.org/2000/svg";

function svg(name, attributes) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

// Frames as bars (those that no machine looked at, and those with a detection, in front), reviews as dots below them, what was dropped as marks above.
export function drawTimeline(line) {
  const { slots, reviews, dropped, objects } = line;
  const most = Math.max(1, ...slots.map((slot) => slot.frames));
  const width = slots.length * 4;
  const lanes = lanesOf(objects);
  const drawing = svg("svg", { viewBox: `0 0 ${width} ${40 + lanes.length * LANE}`, class: "timeline", role: "img", preserveAspectRatio: "none" });
  drawing.style.height = `${54 + lanes.length * 5}px`;
  const sent = slots.reduce((sum, slot) => sum + slot.frames, 0);
  const empty = slots.filter((slot) => slot.frames === 0).length;
  const lost = dropped.reduce((sum, one) => sum + one.frames, 0);
  const unseen = unseenOf(line);
  drawing.setAttribute("aria-label", `Last day: ${sent} frames, ${empty} of ${slots.length} quarters of an hour without any, ${lost} dropped, ${unseen ? `${unseen} not looked at, ` : ""}${reviews.length} reviews, ${countsOf(objects) || "no objects"}`);
  const at = (iso) => ((Date.parse(iso) - Date.parse(line.since)) / (Date.parse(line.until) - Date.parse(line.since))) * width;
  slots.forEach((slot, x) => {
    const bar = (count, name) => {
      if (count === 0) return;
      const height = Math.max((count / most) * 26, 2);
      drawing.append(svg("rect", { x: x * 4, y: 32 - height, width: 3, height, class: name }));
    };
    if (slot.frames === 0) drawing.append(svg("rect", { x: x * 4, y: 30, width: 3, height: 2, class: "gap" }));
    bar(slot.frames, "sent");
    bar(slot.unseen, "unseen");
    bar(slot.found, "found");
  });
  for (const review of reviews) drawing.append(svg("rect", { x: at(review.at) - 1, y: 34, width: 3, height: 5, class: `review is-${review.state}` }));
  for (const one of dropped) drawing.append(svg("rect", { x: at(one.at) - 1, y: 0, width: 3, height: 4, class: "dropped" }));
  lanes.forEach((lane, row) => {
    for (const one of lane) {
      const x = Math.max(at(one.first), 0);
      const bar = svg("rect", { x, y: 42 + row * LANE, width: Math.max(Math.min(at(one.last), width) - x, 2), height: LANE - 1.5, class: "object", fill: styleOf(one.label).colour });
      const title = svg("title", {});
      title.textContent = `${one.label}, object ${one.id}: ${when(one.first)} to ${when(one.last)}, in ${one.frames} frames\n${utc(one.first)} to ${utc(one.last)}`;
      bar.append(title);
      drawing.append(bar);
    }
  });
  return drawing;
}

// Objects in rows, such that those of a row are never in view together.
function lanesOf(objects) {
  const lanes = [];
  for (const one of objects) {
    const free = lanes.find((lane) => Date.parse(lane.at(-1).last) < Date.parse(one.first));
    if (free) free.push(one);
    else if (lanes.length < MOST_LANES) lanes.push([one]);
  }
  return lanes;
}

// "3 car, 1 person"
function countsOf(objects) {
  const counts = new Map();
  for (const { label } of objects) counts.set(label, (counts.get(label) ?? 0) + 1);
  return [...counts].map(([label, count]) => `${count} ${label}`).join(", ");
}

// What was in view, those seen longest first; each leads to its frames.
export function objectList({ objects }) {
  const longest = objects.toSorted((one, other) => Date.parse(other.last) - Date.parse(other.first) - Date.parse(one.last) + Date.parse(one.first));
  const items = longest.slice(0, MOST_LISTED).map((one) => {
    const swatch = element("span", { className: "swatch" });
    swatch.style.background = styleOf(one.label).colour;
    const words = one.frames === 1 ? `${one.label}, once` : `${one.label}, ${duration((Date.parse(one.last) - Date.parse(one.first)) / 1000)}`;
    return element("li", {}, element("a", { href: `${BASE}frames?object=${one.id}`, "data-link": "", title: `object ${one.id}, since ${when(one.first)}\n${utc(one.first)}` }, swatch, words));
  });
  if (!items.length) return element("p", { className: "soft", text: "No object in view in the last day." });
  const heading = element("p", { className: "soft", text: `Objects of the last day: ${countsOf(objects)}${objects.length === MOST_TOLD ? " and more" : ""}` });
  return element("div", { className: "objects" }, heading, element("ul", { className: "object-list" }, ...items));
}

// Stretches without a frame since the first one: "2 gaps, 45 min in all".
export function gapsOf({ slots, since, until }) {
  const first = slots.findIndex((slot) => slot.frames > 0);
  const lately = first < 0 ? [] : slots.slice(first);
  const empty = lately.filter((slot) => slot.frames === 0).length;
  if (!empty) return "none in the last day";
  const gaps = lately.filter((slot, at) => slot.frames === 0 && lately[at - 1].frames > 0).length;
  const seconds = (empty * (Date.parse(until) - Date.parse(since))) / 1000 / slots.length;
  return `${gaps === 1 ? "one" : gaps} in the last day, ${duration(seconds)}${gaps === 1 ? "" : " in all"}`;
}

export const unseenOf = ({ slots }) => slots.reduce((sum, slot) => sum + slot.unseen, 0);
