// Every camera: its last picture, how it does, and the last day as a line.

import * as api from "./api.js";
import { BASE } from "./base.js";
import { styleOf } from "./boxmodel.js";
import { thumbnail } from "./listing.js";
import { element } from "./panels.js";
import { duration, timeNode, utc, when } from "./times.js";

const QUIET_SECONDS = 120; // a camera that has sent nothing for so long stands out
const LANE = 6; // height of an object's line
const MOST_LANES = 8;
const MOST_LISTED = 6;
const MOST_TOLD = 200; // by the station
const SVG = "http://www.w3.org/2000/svg";

const rate = (bits) =>
  bits === null ? "–" : bits < 1000 ? `${Math.round(bits)} bit/s` : bits < 1e6 ? `${(bits / 1000).toFixed(1)} kbit/s` : `${(bits / 1e6).toFixed(2)} Mbit/s`;

function svg(name, attributes) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

// Frames as bars (those with a detection in front), reviews as dots below them, what was dropped as marks above.
function drawTimeline(line) {
  const { slots, reviews, dropped, objects } = line;
  const most = Math.max(1, ...slots.map((slot) => slot.frames));
  const width = slots.length * 4;
  const lanes = lanesOf(objects);
  const drawing = svg("svg", { viewBox: `0 0 ${width} ${40 + lanes.length * LANE}`, class: "timeline", role: "img", preserveAspectRatio: "none" });
  drawing.style.height = `${54 + lanes.length * 5}px`;
  const sent = slots.reduce((sum, slot) => sum + slot.frames, 0);
  const empty = slots.filter((slot) => slot.frames === 0).length;
  const lost = dropped.reduce((sum, one) => sum + one.frames, 0);
  drawing.setAttribute("aria-label", `Last day: ${sent} frames, ${empty} of ${slots.length} quarters of an hour without any, ${lost} dropped, ${reviews.length} reviews, ${countsOf(objects) || "no objects"}`);
  const at = (iso) => ((Date.parse(iso) - Date.parse(line.since)) / (Date.parse(line.until) - Date.parse(line.since))) * width;
  slots.forEach((slot, x) => {
    const bar = (count, name) => {
      const height = Math.max((count / most) * 26, count ? 2 : 0);
      drawing.append(svg("rect", { x: x * 4, y: 32 - height, width: 3, height, class: name }));
    };
    if (slot.frames === 0) drawing.append(svg("rect", { x: x * 4, y: 30, width: 3, height: 2, class: "gap" }));
    bar(slot.frames, "sent");
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
function objectList({ objects }) {
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

export class CamerasPage {
  constructor(container) {
    this.container = container;
  }

  async show() {
    try {
      const cameras = await api.getCameras();
      this.container.replaceChildren(...cameras.map((camera) => this.#card(camera)));
      if (!cameras.length) this.container.append(element("li", { className: "queue-empty", text: "No camera has sent a frame yet." }));
    } catch (error) {
      this.container.replaceChildren(element("li", { className: "queue-empty", text: `The cameras did not come: ${error.message}` }));
    }
  }

  #card(camera) {
    const quiet = camera.silent_seconds > QUIET_SECONDS;
    const card = element("li", { className: `camera ${quiet ? "is-quiet" : ""}` });
    const picture = camera.last_frame === null ? element("span", { className: "thumb" }) : thumbnail(camera.last_frame);
    const list = element("dl", { className: "pairs" });
    const fact = (term, said, className = "") => list.append(element("dt", { text: term }), element("dd", { className }, ...[said].flat()));
    fact("State", quiet ? `silent for ${duration(camera.silent_seconds)}` : "sending", quiet ? "warning" : "state is-ready");
    fact("Last seen", timeNode(camera.last_seen));
    fact("Frames", camera.frames_per_second === null ? "–" : `${camera.frames_per_second.toFixed(2)} a second`);
    fact("Base layers", rate(camera.base_bits_per_second));
    fact("Full quality", rate(camera.fetched_bits_per_second));
    const offset = camera.clock_offset_seconds;
    fact("Clock", offset === null ? "–" : Math.abs(offset) <= 2 ? "right" : `off by ${duration(Math.abs(offset))}`, offset !== null && Math.abs(offset) > 2 ? "warning" : "");
    fact("Open reviews", String(camera.open_reviews));
    const dropped = camera.last_dropped;
    fact("Dropped last", dropped ? [`${dropped.frames} frames, `, timeNode(dropped.at), `: ${dropped.reason}`] : "nothing", dropped ? "warning" : "");
    const frames = element("a", { href: `${BASE}frames?camera=${encodeURIComponent(camera.edge_id)}`, "data-link": "", text: "Its frames" });
    card.append(picture, element("div", {}, element("h3", { text: camera.camera || camera.edge_id }), element("p", { className: "soft", text: camera.edge_id }), list, frames));
    api.getTimeline(camera.edge_id).then((line) => card.append(drawTimeline(line), objectList(line)), () => null);
    return card;
  }
}
