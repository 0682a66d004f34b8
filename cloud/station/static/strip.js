// What the camera saw one second before and after: small pictures in a row, and played on the stage. Fetched only while
// the row is open.

import { getFrameImage, getNeighbours } from "./api.js";
import { BASE } from "./base.js";
import { element } from "./panels.js";

const FRAME_MS = 160;
const MOST_PIXELS = 64e6; // of pictures that are kept, four bytes each
const OPEN_KEY = "secondlook.neighbours";

const secondsOf = ({ seconds }) => (seconds === 0 ? "this frame" : `${seconds > 0 ? "+" : "−"}${Math.abs(seconds).toFixed(1)} s`);

export class Strip {
  // `show(neighbour|null)`: { bitmap, text } of what the stage shall show instead of the frame; `shown(bitmap)`: whether
  // a picture is on the screen.
  constructor(row, list, show, shown, mostPixels = MOST_PIXELS) {
    this.row = row;
    this.list = list;
    this.show = show;
    this.shown = shown;
    this.mostPixels = mostPixels;
    this.frameId = null;
    this.neighbours = [];
    this.pictures = new Map(); // frame id -> { bitmap|null, promise of it }; oldest use first
    this.asked = null; // which picture is to be shown once it is here
    this.playing = null; // the loop that plays
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
    for (const id of this.pictures.keys()) this.#drop(id);
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
    const asked = (this.asked = {});
    const bitmap = await this.#picture(one.id).catch(() => null); // its cell shows that there is none
    if (bitmap && this.asked === asked) this.show({ bitmap, text: `Base ${secondsOf(one)}` });
  }

  #picture(id) {
    const entry = this.pictures.get(id) ?? { bitmap: null };
    this.pictures.delete(id);
    this.pictures.set(id, entry);
    return (entry.promise ??= this.#fetch(id, entry));
  }

  // -> a picture, or null where it is not wanted any more.
  async #fetch(id, entry) {
    try {
      const bitmap = await getFrameImage(id);
      if (this.pictures.get(id) !== entry) {
        bitmap.close();
        return null;
      }
      entry.bitmap = bitmap;
      this.#evict(id);
      return bitmap;
    } catch (error) {
      if (this.pictures.get(id) === entry) this.pictures.delete(id);
      throw error;
    }
  }

  #evict(kept) {
    const pixels = ({ bitmap }) => (bitmap ? bitmap.width * bitmap.height : 0);
    let all = [...this.pictures.values()].reduce((sum, entry) => sum + pixels(entry), 0);
    for (const [id, entry] of this.pictures) {
      if (all <= this.mostPixels) return;
      if (id === kept || !entry.bitmap) continue;
      all -= pixels(entry);
      this.#drop(id);
    }
  }

  // The garbage collector does not see how large a bitmap is: one that nobody looks at is closed.
  #drop(id) {
    const { bitmap } = this.pictures.get(id);
    this.pictures.delete(id);
    if (bitmap && !this.shown(bitmap)) bitmap.close();
  }

  // One after the other, from the first to the last, again and again.
  async play() {
    if (this.playing !== null) return this.stop();
    if (!this.open) this.toggle();
    const mine = (this.playing = {});
    for (let at = 0; this.playing === mine; at = (at + 1) % Math.max(this.neighbours.length, 1)) {
      const one = this.neighbours[at];
      if (one) await this.#showOne(one);
      await new Promise((resolve) => setTimeout(resolve, at === this.neighbours.length - 1 ? 4 * FRAME_MS : FRAME_MS));
    }
  }

  stop() {
    this.asked = null;
    this.playing = null;
    this.show(null);
  }
}
