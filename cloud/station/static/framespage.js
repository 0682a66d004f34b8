// All stored frames, and one of them.

import * as api from "./api.js";
import { BASE } from "./base.js";
import { boxesOf, captionOf, styleOf } from "./boxmodel.js";
import { Choice, frameTile, whatBecame, whatIsIn } from "./listing.js";
import { element, objectWords } from "./panels.js";
import { timeNode } from "./times.js";

const PAGE = 60;
const byId = (id) => document.getElementById(id);

export class FramesPage {
  // `on`: go(route, search), tell(text, kind), reviewer() -> who asks, mayJudge().
  constructor(on) {
    this.on = on;
    this.turn = 0;
    this.choice = new Choice(byId("frame-search"), (search) => on.go({ page: "frames", id: null }, search));
    byId("frames-more").addEventListener("click", () => void this.#load(this.next));
  }

  async show(id, search) {
    const turn = ++this.turn;
    byId("frames-list").hidden = id !== null;
    byId("frame-one").hidden = id === null;
    if (id !== null) return this.#showOne(id);
    await this.#offer();
    if (turn !== this.turn) return;
    this.choice.fill(search);
    await this.#load(null);
  }

  // Another page is shown: what is on its way is for nobody.
  leave() {
    this.turn++;
  }

  async #offer() {
    if (this.offered) return;
    const [cameras, station] = await Promise.all([api.getCameras(), api.getStation()]);
    this.choice.offer("camera", cameras.map((one) => [one.edge_id, one.camera || one.edge_id]));
    this.choice.offer("label", station.labels.map((label) => [label, label]));
    this.offered = true;
  }

  async #load(before) {
    const turn = ++this.turn;
    const list = byId("frames");
    const looking = element("li", { className: "queue-empty", text: "Loading…" });
    if (before === null) list.replaceChildren();
    list.append(looking);
    byId("frames-more").hidden = true;
    try {
      // Where few of many frames fit, the station looks through a part of them at a time.
      let found = 0;
      let from = before;
      do {
        const page = await api.getFrames({ ...this.choice.values, limit: PAGE, ...(from ? { before: from } : {}) });
        if (turn !== this.turn) return; // another search is on its way
        looking.before(...page.frames.map(frameTile));
        looking.textContent = "Looking further back…";
        found += page.frames.length;
        from = page.next;
      } while (from !== null && found < PAGE);
      looking.remove();
      if (!list.childElementCount) list.append(element("li", { className: "queue-empty", text: "No stored frame is like that." }));
      this.next = from;
      byId("frames-more").hidden = from === null;
    } catch (error) {
      if (turn !== this.turn) return;
      list.replaceChildren(element("li", { className: "queue-empty", text: `The frames did not come: ${error.message}` }));
    }
  }

  async #showOne(id) {
    const turn = this.turn;
    const box = byId("frame-one");
    box.replaceChildren(element("p", { className: "queue-empty", text: "Loading…" }));
    try {
      const [frame, around] = await Promise.all([api.getFrame(id), api.getNeighbours(id)]);
      if (turn !== this.turn) return;
      box.replaceChildren(this.#picture(frame), this.#facts(frame), this.#around(around, id));
    } catch (error) {
      if (turn !== this.turn) return;
      box.replaceChildren(
        element("h2", { text: "There is no such frame" }),
        element("p", { text: error.message }),
        element("p", {}, element("a", { className: "primary", href: `${BASE}frames`, "data-link": "", text: "To all frames" })),
      );
    }
  }

  #picture(frame) {
    const area = element("div", { className: "frame-picture" });
    const picture = element("img", { src: `${BASE}api/frames/${frame.id}/base`, alt: `Base picture: ${whatIsIn(frame)}` });
    picture.addEventListener("error", () => picture.replaceWith(element("p", { className: "no-picture", text: "The picture of this frame cannot be made here." })));
    const boxes = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    boxes.setAttribute("viewBox", `0 0 ${frame.width} ${frame.height}`);
    boxes.setAttribute("aria-hidden", "true");
    for (const { box, label } of boxesOf({ ...frame, verdicts: [] })) {
      const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
      const [x, y, right, bottom] = box;
      const shape = { x, y, width: right - x, height: bottom - y, stroke: styleOf(label).colour, fill: "none" };
      for (const [name, value] of Object.entries({ ...shape, "vector-effect": "non-scaling-stroke" })) rect.setAttribute(name, value);
      rect.setAttribute("stroke-width", "2");
      boxes.append(rect);
    }
    area.append(picture, boxes);
    return area;
  }

  #facts(frame) {
    const list = element("dl", { className: "pairs" });
    const fact = (term, said) => list.append(element("dt", { text: term }), element("dd", {}, said));
    const all = `${BASE}frames?camera=${encodeURIComponent(frame.edge_id)}`;
    list.append(element("dt", { text: "Camera" }), element("dd", {}, element("a", { href: all, "data-link": "", title: "All its frames", text: frame.camera || frame.edge_id })));
    fact("Captured", timeNode(frame.captured_at));
    fact("Found", boxesOf({ ...frame, verdicts: [] }).map(captionOf).join(", ") || (frame.unseen ? "not looked at: machines could not keep up" : "nothing"));
    for (const object of frame.detections.flatMap((one) => (one.object ? [one.object] : []))) {
      const link = element("a", { href: `${BASE}frames?object=${object.id}`, "data-link": "" }, `${object.label}: `, ...objectWords(object));
      list.append(element("dt", { text: "Object" }), element("dd", {}, link));
    }
    fact("Review", frame.reason ? `${whatBecame(frame)} (${frame.reason})` : whatBecame(frame));
    fact("Frame", `#${frame.seq} · boot ${frame.boot_id.slice(0, 8)} · ${frame.width} × ${frame.height}`);
    const actions = element("p", { className: "actions" });
    if (frame.review_id !== null) {
      actions.append(element("a", { className: "primary", href: `${BASE}reviews/${frame.review_id}`, "data-link": "", text: "Open its review" }));
    } else if (this.on.mayJudge()) {
      const button = element("button", { className: "primary", text: "Fetch it in full quality" });
      button.addEventListener("click", () => void this.#ask(frame.id, button));
      actions.append(button);
    }
    return element("div", { className: "frame-facts" }, list, actions);
  }

  async #ask(id, button) {
    button.disabled = true;
    try {
      const review = await api.askForReview(id, this.on.reviewer());
      this.on.tell("Asked the camera for full quality");
      this.on.go({ page: "review", id: review.id });
    } catch (error) {
      button.disabled = false;
      this.on.tell(error.message, "error");
    }
  }

  #around(around, id) {
    const list = element("ol", { className: "strip-list" });
    for (const one of around) {
      const link = element("a", { className: "cell", href: `${BASE}frames/${one.id}`, "data-link": "" });
      link.append(element("img", { src: `${BASE}api/frames/${one.id}/thumb`, alt: "" }), element("span", { text: `${one.seconds > 0 ? "+" : ""}${one.seconds.toFixed(1)} s` }));
      if (one.id === id) link.setAttribute("aria-current", "true");
      list.append(element("li", {}, link));
    }
    return element("div", {}, element("h3", { text: "One second before and after" }), list);
  }
}
