// Verdicts by key and button: on the frame, on a box, on what was drawn; and the change of a box before it is kept.

import { boxesOf, isShown, movedBox, resizedBox, rounded } from "./boxmodel.js";
import { pickLabel, sameClass } from "./dialogs.js";
import { boxVerdict, frameVerdict } from "./state.js";

const PARTS = [
  ["the box", null],
  ["its top left corner", ["x0", "y0"]],
  ["its bottom right corner", ["x1", "y1"]],
];

export class Judging {
  // `on`: tell(text, kind), onScreen() -> the picture on the canvas, focus() gives the keys back to the picture.
  constructor(store, desk, notes, on) {
    this.store = store;
    this.desk = desk;
    this.notes = notes;
    this.on = on;
    this.part = 0; // what arrow keys change
  }

  chosen() {
    const { review, selectedBox } = this.store.get();
    return selectedBox === null ? null : (boxesOf(review)[selectedBox] ?? null);
  }

  // `kind`: confirm, reject or unsure, of the chosen box or of the frame.
  judge(kind) {
    const chosen = this.chosen();
    if (this.store.get().draft) {
      if (kind === "confirm") return void this.keep();
      this.store.set({ draft: null });
    }
    if (!chosen) return this.#give(frameVerdict(this.store.get().review, kind)?.[0] ?? kind, { box_index: null });
    if (chosen.index === null) {
      if (kind === "reject") return void this.remove();
      return this.on.tell("A drawn box is yours already: move it, change its class, or delete it");
    }
    // Where it was moved, "confirm" says it is right where it is now.
    if (kind === "confirm" && chosen.verdict?.verdict === "corrected") return this.#next(chosen.index);
    this.#give(kind, { box_index: chosen.index });
  }

  async wrongClass() {
    const { review, labels } = this.store.get();
    if (!review) return;
    if (!this.chosen() && review.detections.length === 1) this.store.set({ selectedBox: 0 });
    const chosen = this.chosen();
    if (!chosen) return this.on.tell("Choose a box first (Tab)");
    const was = chosen.label;
    const label = await pickLabel(`Not “${was}”, but…`, labels.filter((name) => name !== was), labels);
    this.on.focus();
    if (label && this.store.get().currentId === review.id) await this.setClass(label);
  }

  async setClass(label) {
    const chosen = this.chosen();
    if (!chosen) return this.on.tell("Choose a box first (Tab)");
    const { draft } = this.store.get();
    if (chosen.index === null) return this.#redraw(chosen, draft ?? chosen.box, label);
    const box = draft ?? (chosen.verdict?.verdict === "corrected" ? chosen.box : null);
    if (box) return this.#give("corrected", { box_index: chosen.index, label, box: rounded(box) });
    if (sameClass(label, chosen.detectedLabel)) return this.#give("confirm", { box_index: chosen.index });
    return this.#give("wrong_class", { box_index: chosen.index, label });
  }

  async addMissed(box) {
    const { review, labels } = this.store.get();
    const label = await pickLabel("What was missed?", labels);
    this.on.focus();
    this.store.set({ drawing: false });
    if (label && this.store.get().currentId === review.id) {
      this.#give("missed_object", { box_index: null, label, box: rounded(box) });
    }
  }

  // --- the change of a box

  edit(box) {
    if (this.store.get().mayJudge) this.store.set({ draft: box });
  }

  nudge(dx, dy) {
    const chosen = this.chosen();
    const { review, draft, mayJudge } = this.store.get();
    if (!chosen || !mayJudge) return false;
    const box = draft ?? chosen.box;
    const edges = PARTS[this.part][1];
    this.edit(edges ? resizedBox(box, edges, dx, dy, review.frame) : movedBox(box, dx, dy, review.frame));
    return true;
  }

  nextPart() {
    if (!this.chosen()) return;
    this.part = (this.part + 1) % PARTS.length;
    this.on.tell(`Shift and arrows now move ${PARTS[this.part][0]}`);
  }

  // Back to where the detector had it.
  snap() {
    const chosen = this.chosen();
    if (chosen?.detected) this.edit(chosen.detected);
  }

  keep() {
    const { draft } = this.store.get();
    const chosen = this.chosen();
    if (!draft || !chosen) return false;
    if (chosen.index === null) return this.#redraw(chosen, draft, chosen.label);
    const untouched = chosen.detected.every((value, at) => Math.abs(value - draft[at]) < 0.05);
    if (untouched && chosen.label === chosen.detectedLabel) this.#give("confirm", { box_index: chosen.index });
    else this.#give("corrected", { box_index: chosen.index, label: chosen.label, box: rounded(draft) });
    return true;
  }

  async remove() {
    const chosen = this.chosen();
    if (!chosen) return this.on.tell("Choose a box first (Tab)");
    this.store.set({ draft: null });
    if (chosen.index !== null) return this.#give("reject", { box_index: chosen.index });
    if (this.#isOwn(chosen)) await this.desk.undo(chosen.verdict.id);
  }

  // What was drawn is a verdict: another one takes its place.
  async #redraw(chosen, box, label) {
    if (!this.#isOwn(chosen)) return;
    const { review } = this.store.get();
    if (!(await this.desk.undo(chosen.verdict.id))) return;
    if (this.store.get().currentId === review.id) this.#give("missed_object", { box_index: null, label, box: rounded(box) });
  }

  #isOwn(chosen) {
    const { reviewer } = this.store.get();
    if (chosen.verdict.id === undefined) this.on.tell("This box is not stored yet");
    else if (chosen.verdict.reviewer !== reviewer) this.on.tell(`${chosen.verdict.reviewer} drew this box`);
    else return true;
    return false;
  }

  // --- moving among boxes

  move(by) {
    const state = this.store.get();
    const shown = boxesOf(state.review).flatMap((box, at) => (isShown(state, box) ? [at] : []));
    const from = state.selectedBox === null ? -1 : shown.indexOf(state.selectedBox);
    const next = from === -1 ? (by > 0 ? 0 : shown.length - 1) : from + by;
    const inside = next >= 0 && next < shown.length;
    this.select(inside ? shown[next] : null);
    return inside; // past the last box, Tab leaves the stage as it would anywhere
  }

  select(at) {
    if (!this.mayLeave()) return;
    this.part = 0;
    this.store.set({ selectedBox: at, draft: null });
  }

  // A change of a box is kept or dropped before anything else is looked at.
  mayLeave() {
    if (!this.store.get().draft) return true;
    this.on.tell("Keep the change of this box (Enter) or drop it (Esc) first");
    return false;
  }

  #next(from) {
    const { review } = this.store.get();
    const count = review.detections.length;
    for (let step = 1; step <= count; step += 1) {
      const index = (from + step) % count;
      if (!boxVerdict(review, index)) return this.store.set({ selectedBox: index });
    }
    this.store.set({ selectedBox: null });
  }

  #give(verdict, parts) {
    if (!this.store.get().mayJudge) {
      this.on.tell("Viewers see everything and judge nothing");
      return;
    }
    const { review } = this.store.get();
    const text = review ? this.notes.of(review.id) : "";
    // Before the verdict is taken, for the page moves on with it.
    if (review) this.notes.write(review.id, "");
    this.store.batch(() => {
      if (!this.desk.decide(verdict, this.on.onScreen(), { note: text.trim(), ...parts })) {
        if (review) this.notes.write(review.id, text);
        return;
      }
      this.store.set({ draft: null });
      if (parts.box_index !== null && this.store.get().currentId === review?.id) this.#next(parts.box_index);
    });
  }
}
