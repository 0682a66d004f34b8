// The flow of work: which frame is open, what is fetched ahead, verdicts, undo, keeping up with the server.

import * as api from "./api.js";
import { bestVersion, DECIDABLE, indexOf, isDecided, nextDecidable, upcoming } from "./state.js";

const LIST_LIMIT = 200;
const PREFETCH = 5;
const POLL_MS = 1500;
const POLL_HIDDEN_MS = 10000;

export class Desk {
  // `tell(text, kind)` shows a short message.
  constructor(store, images, tell) {
    this.store = store;
    this.images = images;
    this.tell = tell;
    this.details = new Map(); // id -> review as last received
    this.sending = new Set(); // ids whose verdict is on its way and that have left the list
    this.queue = Promise.resolve(); // verdicts are sent one after another
    this.listing = 0;
  }

  // --- what is open

  async open(id) {
    const { rows } = this.store.get();
    const row = rows.find((candidate) => candidate.id === id);
    const known = this.details.get(id);
    const fresh = known && (!row || known.stamp === row.stamp);
    this.store.set({ currentId: id, review: known ?? null, selectedBox: null, drawing: false });
    if (!fresh) await this.refreshCurrent();
    this.#prefetch();
  }

  openFirst() {
    const { rows } = this.store.get();
    const row = rows.find((candidate) => DECIDABLE.has(candidate.state)) ?? rows[0];
    if (row) return this.open(row.id);
    this.store.set({ currentId: null, review: null, selectedBox: null, drawing: false });
    return Promise.resolve();
  }

  step(by) {
    const state = this.store.get();
    const at = indexOf(state, state.currentId);
    const row = state.rows[at === -1 ? 0 : at + by];
    if (row) this.open(row.id);
  }

  async refreshCurrent() {
    const id = this.store.get().currentId;
    if (id === null) return;
    try {
      const review = await api.getReview(id);
      this.#keep(review);
    } catch (error) {
      this.#failed(error);
    }
  }

  loadImage(review, version) {
    return this.images.load(review.id, version, review.image_stamp);
  }

  // --- verdicts

  // `shown`: { id, sha256 } of the picture on screen; `parts`: box_index, label, box, note.
  decide(verdict, shown, parts = {}) {
    const { review, reviewer } = this.store.get();
    if (!review || shown?.id !== review.id) {
      this.tell("The picture is not on screen yet");
      return;
    }
    if (!DECIDABLE.has(review.state) && review.state !== "decided") {
      this.tell("Full quality is still on its way; a verdict waits for it");
      return;
    }
    const body = { reviewer, verdict, shown_sha256: shown.sha256, box_index: null, label: null, box: null, note: "", ...parts };
    const expected = { ...review, verdicts: [...review.verdicts, { ...body, undone: false }] };
    this.details.set(review.id, expected);
    this.store.set({ review: expected });
    const leaves = isDecided(expected) && !isDecided(review);
    if (leaves) this.#leave(expected);
    this.queue = this.queue.then(() => this.#send(review, body, leaves));
  }

  async #send(before, body, leaves) {
    try {
      this.#keep(await api.postVerdict(before.id, body));
      this.listing += 1; // a list still on its way may be older than this verdict
    } catch (error) {
      this.details.delete(before.id);
      this.sending.delete(before.id);
      this.tell(`The verdict was not stored: ${error.message}`, "error");
      await this.refreshList();
      if (leaves || this.store.get().currentId === before.id) await this.open(before.id);
    } finally {
      this.sending.delete(before.id);
    }
  }

  // The frame is done: take it off an open list and go on.
  #leave(review) {
    const state = this.store.get();
    const next = nextDecidable(state, review.id);
    if (state.filter !== "decided") {
      this.sending.add(review.id);
      const rows = state.rows.filter((row) => row.id !== review.id);
      this.store.set({ rows, total: Math.max(state.total - 1, rows.length) });
    }
    if (next) this.open(next.id);
    else this.openFirst();
  }

  async undo(verdictId = null) {
    await this.queue;
    const { reviewer } = this.store.get();
    try {
      const review = verdictId === null ? await api.undoLast(reviewer) : await api.undoVerdict(verdictId, reviewer);
      this.details.set(review.id, review);
      await this.refreshList();
      await this.open(review.id);
      this.tell("Undone");
    } catch (error) {
      this.tell(error.status === 409 ? "There is no verdict of yours to undo" : error.message, "error");
    }
  }

  async retry() {
    const { review, reviewer } = this.store.get();
    try {
      this.#keep(await api.retryReview(review.id, reviewer));
      this.tell("Asked the camera again");
      await this.refreshList();
    } catch (error) {
      this.#failed(error);
    }
  }

  // --- keeping up

  async setFilter(filter) {
    this.store.set({ filter, rows: [], total: 0, loaded: false });
    await this.queue;
    await this.refreshList();
    await this.openFirst();
  }

  async refreshList() {
    const turn = ++this.listing;
    const { filter } = this.store.get();
    const list = await api.getReviews(filter, LIST_LIMIT);
    if (turn !== this.listing) return; // a newer request is on its way
    const rows = list.reviews.filter((row) => !this.sending.has(row.id));
    this.store.set({ rows, total: list.total, loaded: true });
  }

  // Ask for the summary for ever; fetch the list, and the open frame, only when something changed.
  async follow() {
    for (;;) {
      try {
        const summary = await api.getSummary();
        const before = this.store.get().summary;
        this.store.set({ summary, offline: false });
        if (before?.revision !== summary.revision) await this.#catchUp();
      } catch (error) {
        this.#failed(error);
      }
      await new Promise((resolve) => setTimeout(resolve, document.hidden ? POLL_HIDDEN_MS : POLL_MS));
    }
  }

  async #catchUp() {
    await this.refreshList();
    const { rows, currentId } = this.store.get();
    if (currentId === null) {
      await this.openFirst();
      return;
    }
    const row = rows.find((candidate) => candidate.id === currentId);
    if (!row || row.stamp !== this.details.get(currentId)?.stamp) await this.refreshCurrent();
    this.#prefetch();
  }

  #keep(review) {
    this.details.set(review.id, review);
    if (this.store.get().currentId === review.id) this.store.set({ review });
  }

  #failed(error) {
    if (error instanceof api.ApiError) this.tell(error.message, "error");
    else this.store.set({ offline: true });
  }

  // What the reviewer will want next: base of the open frame, to compare, then the frames that follow. One request
  // after the other, so that the open frame is never slowed down.
  async #prefetch() {
    const state = this.store.get();
    const open = state.rows.filter((row) => row.id === state.currentId);
    for (const row of [...open, ...upcoming(state, state.currentId, PREFETCH)]) {
      try {
        let review = this.details.get(row.id);
        if (review?.stamp !== row.stamp) {
          review = await api.getReview(row.id);
          this.details.set(row.id, review);
        }
        const version = bestVersion(review, this.store.get().version);
        if (version) await this.loadImage(review, version);
        if (review.images.base) await this.loadImage(review, "base");
      } catch {
        return; // only a prefetch: opening the frame will ask again and say what is wrong
      }
      if (this.store.get().currentId !== state.currentId) return; // the reviewer moved on; a newer prefetch runs
    }
    this.#forget(state);
  }

  #forget(state) {
    const listed = new Set(state.rows.map((row) => row.id));
    for (const id of this.details.keys()) {
      if (id !== state.currentId && !listed.has(id)) this.details.delete(id);
    }
  }
}
