// One camera, large: its newest base picture, lossless, as frames come.
//
// A picture is fetched once the one before is there, always the newest, and at most half of the time goes into fetching:
// on a thin line there are fewer pictures, and the rest of the station still comes through. Nothing is fetched while
// nobody can see it.

import * as api from "./api.js";
import { BASE } from "./base.js";
import { element } from "./panels.js";
import { timeNode } from "./times.js";

const WAIT_SECONDS = 6; // for another frame, on the station's side
const TROUBLE_MS = 3000;
const LONGEST_PAUSE_MS = 10_000;
const PACE_OVER = 10; // pictures

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const seen = () => new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));

export class LiveView {
  constructor(box) {
    this.box = box;
    this.turn = 0;
    this.edgeId = null;
    this.asking = null; // ends what is under way
    document.addEventListener("visibilitychange", () => document.hidden && this.asking?.abort());
  }

  show(edgeId, name) {
    if (edgeId === this.edgeId) return;
    this.close();
    this.edgeId = edgeId;
    this.facts = element("p", { className: "soft", text: "Waiting for its newest frame…" });
    this.canvas = element("canvas", { role: "img", "aria-label": `${name}, live base picture` });
    const close = element("a", { className: "tool", href: `${BASE}cameras`, "data-link": "", text: "Close" });
    this.box.replaceChildren(element("div", { className: "live-head" }, element("h3", { text: `${name}, live` }), this.facts, close), this.canvas);
    this.box.hidden = false;
    void this.#follow(edgeId, this.turn);
  }

  close() {
    this.turn++;
    this.edgeId = null;
    this.asking?.abort();
    this.box.hidden = true;
    this.box.replaceChildren();
  }

  async #follow(edgeId, turn) {
    const times = []; // when pictures came
    for (let known = 0; turn === this.turn; ) {
      if (document.hidden) {
        await seen();
        continue;
      }
      this.asking = new AbortController();
      const began = performance.now();
      try {
        const found = await api.getNewest(edgeId, known, WAIT_SECONDS, this.asking.signal);
        if (turn !== this.turn) return;
        if (found.id === null || found.id === known) {
          // Where the station has no place for who waits, it answers at once.
          if (performance.now() - began < 1000) await pause(1000);
          continue;
        }
        known = found.id; // one that cannot be shown is not asked for again
        const fetched = performance.now();
        const { bitmap, bytes } = await api.getLivePicture(found.id, this.asking.signal);
        if (turn !== this.turn) return bitmap.close();
        this.#draw(bitmap);
        const now = performance.now();
        times.push(now);
        if (times.length > PACE_OVER) times.shift();
        this.#tell(found, bytes, times);
        await pause(Math.min(now - fetched, LONGEST_PAUSE_MS));
      } catch (error) {
        if (turn !== this.turn) return;
        if (document.hidden) continue;
        this.facts.textContent = `No picture: ${error.message}`;
        await pause(TROUBLE_MS);
      }
    }
  }

  #draw(bitmap) {
    Object.assign(this.canvas, { width: bitmap.width, height: bitmap.height });
    this.canvas.getContext("2d").drawImage(bitmap, 0, 0);
    bitmap.close();
    this.canvas.dataset.pictures = Number(this.canvas.dataset.pictures ?? 0) + 1;
  }

  #tell({ captured_at }, bytes, times) {
    const pace = times.length > 1 ? `, ${(((times.length - 1) * 1000) / (times.at(-1) - times[0])).toFixed(1)} pictures a second` : "";
    this.facts.replaceChildren(timeNode(captured_at), `, ${Math.round(bytes / 1024)} KB${pace}`);
  }
}
