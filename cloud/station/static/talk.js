// Comments beside the frame, and the dialog by which it is handed to a colleague or put back.

import * as api from "./api.js";
import { Notes } from "./notes.js";
import { element } from "./panels.js";
import { timeNode } from "./times.js";

const byId = (id) => document.getElementById(id);

export class Talk {
  // `on`: tell(text, kind), focus() gives the keys back to the picture.
  constructor(store, desk, on) {
    this.store = store;
    this.desk = desk;
    this.on = on;
    this.drafts = new Notes("comments"); // what is being written, by frame
    this.shown = null; // what the list was made of
    byId("comment-form").addEventListener("submit", (event) => {
      event.preventDefault();
      void this.#send();
    });
    const field = byId("comment");
    field.addEventListener("input", () => this.store.get().currentId !== null && this.drafts.write(this.store.get().currentId, field.value));
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") on.focus();
      else if (event.key === "Enter" && !event.shiftKey) void this.#send();
      else return;
      event.preventDefault();
    });
    byId("hand-over").addEventListener("click", () => void this.handOver());
    this.#attachDialog();
  }

  write() {
    if (!this.#may()) return;
    byId("talk").open = true;
    byId("comment").focus();
  }

  async handOver() {
    if (!this.#may()) return;
    const dialog = byId("handover-dialog");
    const { reviewer, review } = this.store.get();
    byId("handover-form").reset();
    byId("handover-problem").textContent = "";
    byId("handover-comment").value = this.drafts.of(review.id);
    dialog.reviewId = review.id;
    dialog.showModal();
    const names = await api.getColleagues().catch(() => []);
    byId("handover-names").replaceChildren(...names.filter((name) => name !== reviewer).map((value) => element("option", { value })));
  }

  render(state) {
    const { review, reviewer, role, currentId } = state;
    const draft = currentId === null ? "" : this.drafts.of(currentId);
    if (byId("comment").value !== draft) byId("comment").value = draft;
    for (const field of byId("comment-form").elements) field.disabled = !review || !state.mayJudge;
    const made = review && [review.id, review.comments, reviewer, role];
    if (made?.every((part, at) => part === this.shown?.[at]) ?? this.shown === null) return;
    const another = made?.[0] !== this.shown?.[0];
    this.shown = made;
    const comments = review?.comments ?? [];
    const standing = comments.filter((one) => !one.deleted).length;
    if (another || standing) byId("talk").open = standing > 0;
    byId("comment-count").textContent = standing ? String(standing) : "";
    byId("comments").replaceChildren(...comments.map((one) => this.#item(one, one.author === reviewer || role === "admin")));
  }

  #item(one, mayDelete) {
    const head = element("div", { className: "comment-head" }, element("b", { text: one.author }), timeNode(one.at, "soft"));
    if (one.deleted) return element("li", { className: "soft" }, head, element("p", { text: "deleted" }));
    if (mayDelete && this.store.get().mayJudge) {
      const button = element("button", { className: "quiet", text: "Delete", "aria-label": `Delete the comment of ${one.author}` });
      button.addEventListener("click", () => void this.#change((name) => api.deleteComment(one.id, name)));
      head.append(button);
    }
    return element("li", {}, head, element("p", { text: one.text }));
  }

  async #send() {
    const { review } = this.store.get();
    const text = review ? this.drafts.of(review.id).trim() : "";
    if (!text || this.sending) return;
    this.sending = true;
    if (await this.#change((name) => api.giveComment(review.id, name, text))) {
      this.drafts.write(review.id, "");
      this.on.focus();
    }
    this.sending = false;
    this.store.set({});
  }

  // -> whether it was done.
  async #change(change) {
    const problem = await this.desk.talk(change);
    if (problem !== null) this.on.tell(problem, "error");
    return problem === null;
  }

  #may() {
    const { review, mayJudge } = this.store.get();
    if (!mayJudge) this.on.tell("Viewers see everything and judge nothing");
    return mayJudge && Boolean(review);
  }

  #attachDialog() {
    const dialog = byId("handover-dialog");
    const give = async (to) => {
      const id = dialog.reviewId;
      if (this.store.get().currentId !== id) return dialog.close();
      const problem = await this.desk.handOver(to, byId("handover-comment").value);
      if (problem !== null) {
        byId("handover-problem").textContent = problem;
        return;
      }
      this.drafts.write(id, "");
      dialog.close();
      this.on.tell(to === null ? "Given back to the queue" : `Handed to ${to}`);
      this.on.focus();
    };
    byId("handover-form").addEventListener("submit", (event) => {
      event.preventDefault();
      void give(byId("handover-to").value.trim());
    });
    byId("handover-back").addEventListener("click", () => void give(null));
    byId("handover-cancel").addEventListener("click", () => dialog.close());
  }
}
