// Every camera: its last picture, how it does, when it did not, and the last day as a line; one of them large, live.

import * as api from "./api.js";
import { BASE } from "./base.js";
import { LiveView } from "./cameralive.js";
import { thumbnail } from "./listing.js";
import { element } from "./panels.js";
import { drawTimeline, gapsOf, objectList, unseenOf } from "./timeline.js";
import { duration, timeNode } from "./times.js";

const REFRESH_MS = 10_000;
const LINES_MS = 300_000; // between two looks at the last day
const CLOCK_SECONDS = 2;
const ORDER = ["offline", "silent", "stalled", "online", "resting"]; // what wants a person first
const RESTING = { paused: "paused", "off-hours": "out of its hours", asleep: "asleep", ended: "its source has ended" };
const WORDS = { offline: "offline", silent: "silent", stalled: "stalled: connected, and no frame" };
const byId = (id) => document.getElementById(id);

const rate = (bits) =>
  bits === null ? "–" : bits < 1000 ? `${Math.round(bits)} bit/s` : bits < 1e6 ? `${(bits / 1000).toFixed(1)} kbit/s` : `${(bits / 1e6).toFixed(2)} Mbit/s`;

const isWell = ({ state }) => state === "online" || state === "resting";

function stateOf(camera) {
  if (camera.state === "online") return "sending";
  if (camera.state === "resting") return RESTING[camera.source] ?? "resting";
  return `${WORDS[camera.state]} for ${duration(camera.state_seconds)}`;
}

// What waits on the host: how old the oldest frame is, and how many there are.
function spoolOf(camera) {
  if (camera.waiting_frames === null) return "not told";
  if (!camera.waiting_frames || camera.oldest_waiting_seconds === null) return "nothing waits";
  const frames = camera.waiting_frames === 1 ? "1 frame" : `${camera.waiting_frames} frames`;
  const text = `${duration(camera.oldest_waiting_seconds)}, ${frames}`;
  return camera.state === "offline" ? `${text} when it was heard last` : text;
}

function clockOf({ clock_offset_seconds: offset }) {
  if (offset === null) return "–";
  return Math.abs(offset) <= CLOCK_SECONDS ? "right" : `off by ${duration(Math.abs(offset))}`;
}

function errorOf(camera) {
  if (camera.trouble) return camera.trouble;
  return camera.last_trouble ? [`${camera.last_trouble} (`, timeNode(camera.last_trouble_at), ", over)"] : "none";
}

function eventLine({ what, began_at, ended_at, times }) {
  const often = times > 1 ? `, ${times} times` : "";
  const text = ended_at
    ? `${what} for ${duration((Date.parse(ended_at) - Date.parse(began_at)) / 1000)}${often}, over`
    : `${what} since then${often}`;
  return element("li", { className: ended_at ? "" : "warning" }, timeNode(began_at), ` ${text}`);
}

class Card {
  constructor(edgeId) {
    this.edgeId = edgeId;
    this.node = element("li", { className: "camera", "data-camera": edgeId });
    this.head = element("h3");
    this.picture = element("span", { className: "thumb" });
    this.facts = element("dl", { className: "pairs" });
    this.events = element("div", { className: "camera-events" });
    this.line = element("div", { className: "camera-line" });
    this.frameId = null;
    this.gaps = null; // until the last day has come
    const query = `camera=${encodeURIComponent(edgeId)}`;
    const links = element("p", { className: "links" }, element("a", { href: `${BASE}cameras?live=${encodeURIComponent(edgeId)}`, "data-link": "", text: "Live" }), element("a", { href: `${BASE}frames?${query}`, "data-link": "", text: "Its frames" }));
    this.node.append(this.picture, element("div", {}, this.head, element("p", { className: "soft", text: edgeId }), this.facts, links), this.events, this.line);
  }

  update(camera) {
    this.camera = camera;
    this.node.className = `camera is-${camera.state}`;
    this.head.replaceChildren(camera.camera || camera.edge_id, " ");
    if (!isWell(camera)) this.head.append(element("span", { className: "badge", text: camera.state }));
    if (camera.last_frame !== this.frameId) {
      this.frameId = camera.last_frame;
      const picture = camera.last_frame === null ? element("span", { className: "thumb" }) : thumbnail(camera.last_frame);
      this.picture.replaceWith(picture);
      this.picture = picture;
    }
    this.#listFacts();
    const { events } = camera;
    this.events.replaceChildren(...(events.length ? [element("p", { className: "soft", text: "Last events" }), element("ul", {}, ...events.map(eventLine))] : []));
  }

  #listFacts() {
    const { camera } = this;
    const nodes = [];
    const fact = (term, said, className = "") => nodes.push(element("dt", { text: term }), element("dd", { className }, ...[said].flat()));
    fact("State", stateOf(camera), isWell(camera) ? "state is-ready" : "warning");
    fact("Last seen", timeNode(camera.last_seen));
    fact("Frames", camera.frames_per_second === null ? "–" : `${camera.frames_per_second.toFixed(2)} a second`);
    fact("Base layers", rate(camera.base_bits_per_second));
    fact("Full quality", rate(camera.fetched_bits_per_second));
    fact("Waiting there", spoolOf(camera), camera.waiting_frames ? "warning" : "");
    fact("Clock", clockOf(camera), Math.abs(camera.clock_offset_seconds ?? 0) > CLOCK_SECONDS ? "warning" : "");
    fact("Model", camera.model || "not told");
    fact("Open reviews", String(camera.open_reviews));
    if (this.gaps !== null) fact("Gaps", this.gaps, this.gaps.startsWith("none") ? "" : "warning");
    if (this.unseen) {
      const frames = this.unseen === 1 ? "1 frame" : `${this.unseen} frames`;
      const link = element("a", { href: `${BASE}frames?camera=${encodeURIComponent(this.edgeId)}&unseen=true`, "data-link": "", text: frames });
      fact("Not looked at", [link, " of the last day: machines could not keep up"], "warning");
    }
    const dropped = camera.last_dropped;
    fact("Dropped last", dropped ? [`${dropped.frames} frames, `, timeNode(dropped.at), `: ${dropped.reason}`] : "nothing", dropped ? "warning" : "");
    fact("Last error", errorOf(camera), camera.trouble ? "warning" : "");
    this.facts.replaceChildren(...nodes);
  }

  showDay(line) {
    this.gaps = gapsOf(line);
    this.unseen = unseenOf(line);
    this.line.replaceChildren(drawTimeline(line), objectList(line));
    this.#listFacts();
  }
}

export class CamerasPage {
  constructor() {
    this.list = byId("cameras");
    this.cards = new Map(); // by edge id
    this.live = new LiveView(byId("camera-live"));
    this.timer = null;
    this.turn = 0;
    this.asked = 0;
    this.answered = 0;
    this.linesAt = 0;
    document.addEventListener("visibilitychange", () => void (this.timer !== null && !document.hidden && this.#refresh()));
  }

  async show(search) {
    const turn = ++this.turn;
    this.linesAt = 0;
    this.timer ??= setInterval(() => void (document.hidden || this.#refresh()), REFRESH_MS);
    await this.#refresh();
    if (turn !== this.turn) return; // somebody went elsewhere meanwhile
    const wanted = new URLSearchParams(search).get("live");
    const card = wanted === null ? null : this.cards.get(wanted);
    if (card) this.live.show(wanted, card.camera.camera || wanted);
    else this.live.close();
    if (card) this.live.box.scrollIntoView({ block: "nearest" });
  }

  // Another page is shown.
  leave() {
    this.turn++;
    clearInterval(this.timer);
    this.timer = null;
    this.live.close();
  }

  async #refresh() {
    const asked = ++this.asked;
    let cameras;
    try {
      cameras = await api.getCameras();
      if (asked < this.answered) return; // a later answer is shown
      this.answered = asked;
    } catch (error) {
      if (asked < this.answered) return;
      byId("cameras-state").textContent = `The cameras did not come: ${error.message}`;
      return;
    }
    const ordered = cameras.toSorted((one, other) => ORDER.indexOf(one.state) - ORDER.indexOf(other.state) || one.edge_id.localeCompare(other.edge_id));
    for (const camera of ordered) {
      if (!this.cards.has(camera.edge_id)) this.cards.set(camera.edge_id, new Card(camera.edge_id));
      this.cards.get(camera.edge_id).update(camera);
    }
    const nodes = ordered.map((camera) => this.cards.get(camera.edge_id).node);
    const shown = [...this.list.children];
    // Only where the order is another one: a link that has the focus keeps it.
    if (nodes.length !== shown.length || nodes.some((node, at) => node !== shown[at])) this.list.replaceChildren(...nodes);
    this.#sumUp(ordered);
    if (Date.now() - this.linesAt >= LINES_MS) {
      this.linesAt = Date.now();
      for (const { edge_id } of ordered) {
        api.getTimeline(edge_id).then((line) => this.cards.get(edge_id).showDay(line), () => null);
      }
    }
  }

  #sumUp(cameras) {
    if (!cameras.length) {
      byId("cameras-state").textContent = "No camera has sent a frame yet.";
      return;
    }
    const counts = ORDER.map((state) => [state, cameras.filter((one) => one.state === state).length]).filter(([, many]) => many);
    byId("cameras-state").textContent = counts.map(([state, many]) => `${many} ${state}`).join(", ");
  }
}
