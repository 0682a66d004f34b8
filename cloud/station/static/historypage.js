// What happened, for people: picture, who, what, and a way to the frame. The machines' part is shown on request.

import * as api from "./api.js";
import { BASE } from "./base.js";
import { Choice, thumbnail } from "./listing.js";
import { element } from "./panels.js";
import { VERDICT_WORDS } from "./state.js";
import { timeNode } from "./times.js";

const PAGE = 100;
const SENT_MS = 3000;
const byId = (id) => document.getElementById(id);

const words = (value) => (typeof value === "object" ? JSON.stringify(value) : String(value));

// "rejected box 2, note “a shadow”", or what the entry holds where there are no words for it.
function whatHappened({ action, detail, comment }) {
  if (action === "comment given") return comment === null ? "commented" : `commented: “${comment}”`;
  if (action === "comment deleted") return "deleted a comment";
  if (action === "review handed over") return detail.to === null ? "gave it back to the queue" : `handed it to ${detail.to}`;
  if (action === "verdict given" || action === "verdict undone") {
    const verdict = VERDICT_WORDS[detail.verdict] ?? detail.verdict;
    const box = Number.isInteger(detail.box_index) ? `, box ${detail.box_index + 1}` : "";
    const said = `${verdict}${detail.label ? ` ${detail.label}` : ""}${box}`;
    return `${action === "verdict undone" ? "took back: " : ""}${said}${detail.note ? `, “${detail.note}”` : ""}`;
  }
  const rest = Object.entries(detail).filter(([, value]) => value !== null && value !== "");
  return [action, ...rest.map(([name, value]) => `${name.replaceAll("_", " ")} ${words(value)}`)].join(" · ");
}

export class HistoryPage {
  // `on`: go, tell, reviewer(), undo(verdictId), settled() -> a promise: what was judged has been sent.
  constructor(on) {
    this.on = on;
    this.turn = 0;
    this.choice = new Choice(byId("history-search"), (search) => on.go({ page: "history", id: null }, search));
    byId("history-more").addEventListener("click", () => void this.#load(this.next));
  }

  async show(search) {
    this.choice.fill(search);
    // One's last verdict is in it, unless the station is away.
    await Promise.race([this.on.settled(), new Promise((then) => setTimeout(then, SENT_MS))]);
    await this.#load(null);
  }

  // Another page is shown: what is on its way is for nobody.
  leave() {
    this.turn++;
  }

  async #load(before) {
    const turn = ++this.turn;
    try {
      const { actor = "", all = "" } = this.choice.values;
      const { entries, next_before: next } = await api.getHistory(PAGE, before, { actor, people: all !== "all" });
      if (turn !== this.turn) return;
      const rows = entries.map((entry) => this.#row(entry));
      if (before === null) byId("history").replaceChildren(...rows);
      else byId("history").append(...rows);
      if (!byId("history").childElementCount) {
        byId("history").append(element("tr", {}, element("td", { colspan: "5", className: "queue-empty", text: "Nothing has happened yet." })));
      }
      this.next = next;
      byId("history-more").hidden = next === null;
    } catch (error) {
      if (turn === this.turn) this.on.tell(error.message, "error");
    }
  }

  #row(entry) {
    const picture = element("td");
    if (entry.frame_id !== null) picture.append(thumbnail(entry.frame_id, "thumb small"));
    const subject = element("td", { className: "nowrap" });
    if (entry.review_id !== null) {
      subject.append(element("a", { href: `${BASE}reviews/${entry.review_id}`, "data-link": "", text: `Frame under review ${entry.review_id}` }));
    } else subject.textContent = entry.subject;
    const last = element("td");
    if (entry.verdict_id !== null && entry.standing && entry.actor === this.on.reviewer()) {
      const button = element("button", { className: "tool", text: "Undo" });
      button.addEventListener("click", () => this.on.undo(entry.verdict_id));
      last.append(button);
    }
    return element(
      "tr",
      {},
      picture,
      element("td", { className: "nowrap" }, element("b", { text: entry.actor }), element("br"), timeNode(entry.at, "soft")),
      element("td", { className: "detail", text: whatHappened(entry) }),
      subject,
      last,
    );
  }
}
