// What the camera saw one second before and after: small pictures in a row, and played on the stage. Fetched only while
// the row is open.

import { getFrameImage, getNeighbours } from "./api.js";
import { BASE } from "./base.js";
import { element } from "./panels.js";

const FRAME_MS = 160;
const OPEN_KEY = "secondlook.neighbours";

const secondsOf = ({ seconds }) => (seconds === 0 ? "this frame" : `${seconds > 0 ? "+" : "−"}${Math.abs(seconds).toFixed(1)} s`);

export class Strip {
  // `show(neighbour|null)`: { bitmap, text } of what the stage shall show instead of the frame.
  constructor(row, list, show) {
    this.row = row;
    this.list = list;
    this.show = show;
    this.frameId = null;
    this.neighbours = [];
    this.pictures = new Map(); // frame id -> promise of its bitmap
    this.timer = null;
    this.row.hidden = localStorage.getItem(OPEN_KEY) !== "yes";
  }

  get open() {
    return !this.row.hidden;
  }

  toggle() {
    this.row.hidden = !this.row.hidden;
    localStorage.setItem(OPEN_KEY, this.open ? "yes" : "no");
    this.stop();
    const { frameId } = this;
    this.frameId = null;
    if (this.open && frameId !== null) void this.follow(frameId);
    else this.frameId = frameId;
  }

  // The frame on the stage is another one.
  async follow(frameId) {
    if (this.frameId === frameId) return;
    this.stop();
    this.frameId = frameId;
    this.neighbours = [];
    this.pictures.clear();
    this.list.replaceChildren();
    if (!this.open || frameId === null) return;
    const found = await getNeighbours(frameId).catch(() => []);
    if (this.frameId !== frameId) return;
    this.neighbours = found;
    this.list.replaceChildren(...found.map((one) => this.#cell(one)));
    if (found.length < 2) this.list.append(element("li", { className: "queue-empty", text: "No other frame within a second." }));
    this.list.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
  }

  #cell(one) {
    const picture = element("img", { src: `${BASE}api/frames/${one.id}/thumb`, alt: "", loading: "lazy" });
    const button = element("button", { className: "cell" }, picture, element("span", { text: secondsOf(one) }));
    if (one.seconds === 0) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => {
      this.stop();
      if (one.seconds !== 0) void this.#showOne(one);
    });
    return element("li", {}, button);
  }

  async #showOne(one) {
    const { frameId } = this;
    try {
      if (!this.pictures.has(one.id)) this.pictures.set(one.id, getFrameImage(one.id));
      const bitmap = await this.pictures.get(one.id);
      if (this.frameId === frameId) this.show({ bitmap, text: `Base ${secondsOf(one)}` });
    } catch {
      this.pictures.delete(one.id); // its cell shows that there is none
    }
  }

  // One after the other, from the first to the last, again and again.
  async play() {
    if (this.timer !== null) return this.stop();
    if (!this.open) this.toggle();
    const { frameId } = this;
    this.timer = 0;
    for (let at = 0; this.timer !== null && this.frameId === frameId; at = (at + 1) % Math.max(this.neighbours.length, 1)) {
      const one = this.neighbours[at];
      if (one) await this.#showOne(one);
      await new Promise((resolve) => setTimeout(resolve, at === this.neighbours.length - 1 ? 4 * FRAME_MS : FRAME_MS));
    }
  }

  stop() {
    this.timer = null;
    this.show(null);
  }
}
