// Many frames that are alike, judged at once: all of them but those that were clicked. Each verdict is on the small
// picture that was on the screen, whose hash it names.

import * as api from "./api.js";
import { BASE } from "./base.js";
import { Choice, whatIsIn } from "./listing.js";
import { element } from "./panels.js";
import { VERDICT_WORDS } from "./state.js";
import { clockNode, timeNode } from "./times.js";

const SHOWN = 20;
const byId = (id) => document.getElementById(id);

export class GridPage {
  // `on`: go, next, tell, reviewer, mayJudge; `claims`: those of this page.
  constructor(claims, on) {
    this.claims = claims;
    this.on = on;
    this.turn = 0;
    this.tiles = []; // { row, sha256, left, button }
    this.choice = new Choice(byId("grid-search"), (search) => on.go({ page: "grid", id: null }, search));
    byId("grid-confirm").addEventListener("click", () => this.confirm());
    byId("grid-reject").addEventListener("click", () => this.reject());
  }

  confirm() {
    void this.#judge((row) => (row.labels.length ? "confirm" : "no_object"));
  }

  reject() {
    void this.#judge((row) => (row.labels.length ? "reject" : "incomplete"));
  }

  async show(search) {
    if (!this.offered) {
      const [cameras, station] = await Promise.all([api.getCameras(), api.getStation()]);
      this.choice.offer("camera", cameras.map((one) => [one.edge_id, one.camera || one.edge_id]));
      this.choice.offer("label", station.labels.map((label) => [label, label]));
      this.offered = true;
    }
    this.choice.fill(search);
    this.burst = Number(new URLSearchParams(search).get("burst")) || null;
    await this.#load();
  }

  async #load() {
    const turn = ++this.turn;
    const list = byId("grid");
    try {
      const { reviews, total } = await this.#listed();
      if (turn !== this.turn) return;
      this.#showScene(reviews);
      this.tiles = reviews.map((row) => this.#tile(row));
      list.replaceChildren(...this.tiles.map((tile) => element("li", {}, tile.button)));
      if (!reviews.length) list.append(element("li", { className: "queue-empty", text: "No ready frame is like that." }));
      this.total = total;
      this.#count();
    } catch (error) {
      if (turn !== this.turn) return;
      list.replaceChildren(element("li", { className: "queue-empty", text: `The frames did not come: ${error.message}` }));
    }
  }

  // What the form asks for, or, after a frame of the queue, the scene that it is of.
  async #listed() {
    if (this.burst !== null) {
      const reviews = await api.getBurst(this.burst);
      return { reviews, total: reviews.length };
    }
    const { order = "alike", ...rest } = this.choice.values;
    return api.getReviews({ filter: "ready", order, ...rest }, SHOWN);
  }

  #showScene(rows) {
    const scene = byId("grid-scene");
    scene.hidden = this.burst === null;
    if (scene.hidden) return;
    const back = element("a", { href: `${BASE}reviews/${this.burst}`, "data-link": "", text: "Back to the queue" });
    const [first] = rows;
    const last = rows.at(-1);
    const words = first
      ? [`One scene of ${first.camera || first.edge_id}, `, timeNode(first.captured_at), " to ", clockNode(last.captured_at), ". "]
      : ["This scene has been judged. "];
    scene.replaceChildren(...words, back);
  }

  #tile(row) {
    const canvas = element("canvas", { className: "thumb" });
    const button = element("button", { className: "tile", "aria-pressed": "false" });
    const note = element("span", { className: "tile-state" });
    button.append(canvas, element("b", { text: whatIsIn(row) }), element("span", { text: `${row.camera || row.edge_id} · ${row.reason}` }), timeNode(row.captured_at), note);
    const tile = { row, sha256: null, left: false, button, note };
    button.addEventListener("click", () => {
      tile.left = !tile.left;
      button.setAttribute("aria-pressed", String(tile.left));
      note.textContent = tile.left ? "left for a closer look" : "";
      this.#count();
    });
    this.#paint(tile, canvas);
    return tile;
  }

  async #paint(tile, canvas) {
    try {
      const { bitmap, sha256 } = await api.getThumb(tile.row.frame_id);
      canvas.width = bitmap.width;
      canvas.height = bitmap.height;
      canvas.getContext("2d").drawImage(bitmap, 0, 0);
      tile.sha256 = sha256;
    } catch {
      tile.note.textContent = "no picture: not judged here";
    }
    this.#count();
  }

  #chosen = () => this.tiles.filter((tile) => !tile.left && tile.sha256 !== null);

  #count() {
    const count = this.#chosen().length;
    const empty = this.tiles.length > 0 && this.tiles.every((tile) => !tile.row.labels.length);
    byId("grid-count").textContent = this.tiles.length ? `${this.tiles.length} of ${this.total}; click those that differ` : "";
    byId("grid-confirm").firstElementChild.textContent = `${empty ? "Nothing here" : "Confirm"}: ${count}`;
    byId("grid-reject").firstElementChild.textContent = `${empty ? "Something is missing" : "Reject"}: ${count}`;
    for (const id of ["grid-confirm", "grid-reject"]) byId(id).disabled = count === 0 || !this.on.mayJudge();
  }

  async #judge(verdictOn) {
    const chosen = this.#chosen();
    if (this.judging || !chosen.length || !this.on.mayJudge()) return;
    this.judging = true;
    for (const id of ["grid-confirm", "grid-reject"]) byId(id).disabled = true;
    let stored = 0;
    for (const tile of chosen) {
      const problem = await this.#give(tile, verdictOn(tile.row));
      if (problem === null) stored += 1;
      else {
        tile.note.textContent = problem;
        tile.left = true;
      }
    }
    this.judging = false;
    const left = this.tiles.length - stored;
    this.on.tell(`${stored} judged${left ? `, ${left} left for a closer look` : ""}`);
    if (this.burst !== null && stored === this.tiles.length) await this.on.next();
    else if (stored) await this.#load();
    else this.#count();
  }

  // -> what went wrong, or null. Whoever has the frame open keeps it.
  async #give({ row, sha256 }, verdict) {
    const reviewer = this.on.reviewer();
    const body = { reviewer, verdict, shown_sha256: sha256, seen_verdict_id: 0 };
    const { tab, current } = this.claims;
    // The queue's frames stay with this page.
    const keep = [...new Set([...this.claims.judged(), current])].filter((id) => id !== null && id !== row.id);
    try {
      await api.claimReview({ reviewer, tab, review_id: row.id, keep }, null);
      await api.postVerdict(row.id, { ...body, idempotency_key: `grid.${row.id}.${row.stamp}.${verdict}`.slice(0, 64) });
      return null;
    } catch (error) {
      // Nobody has it before them here, unless the queue does.
      if (row.id !== this.claims.current) await api.releaseClaim(row.id, { reviewer, tab }, false).catch(() => null); // else it runs out
      if (error.body?.conflict) return VERDICT_WORDS[error.body.conflict.verdict];
      return error.message;
    }
  }
}

