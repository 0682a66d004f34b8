// Everything around the stage: progress, filters, queue, facts, box list, history. Text only, never HTML strings.

import { boxesOf, captionOf, isShown, styleOf } from "./boxmodel.js";
import { FILTERS, holderOf, STATE_WORDS, VERDICT_WORDS } from "./state.js";
import { age, ageNode, duration, recentNode, timeNode } from "./times.js";

export function element(name, { text, className, ...attributes } = {}, ...children) {
  const node = document.createElement(name);
  if (text !== undefined) node.textContent = text;
  if (className) node.className = className;
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

const kilobytes = (bytes) =>
  bytes === null ? "–" : bytes < 1024 ? `${bytes} B` : `${(bytes / 1024).toFixed(1)} KB`;

export function renderProgress(container, summary) {
  if (!summary) return;
  const parts = [[String(summary.remaining), summary.remaining === 1 ? "frame left" : "frames left"]];
  if (summary.pending > 0) parts.push([String(summary.pending), "on their way"]);
  if (summary.rate_per_hour !== null) parts.push([String(Math.round(summary.rate_per_hour)), "an hour"]);
  if (summary.eta_seconds !== null && summary.remaining > 0) parts.push(["≈ " + duration(summary.eta_seconds), "to go"]);
  container.replaceChildren(
    ...parts.map(([figure, words]) => element("span", {}, element("b", { text: figure }), ` ${words}`)),
  );
}

export function renderFilters(container, state, choose) {
  if (container.childElementCount === 0) {
    for (const [name, words] of FILTERS) {
      const button = element("button", { role: "radio", "data-filter": name });
      button.append(element("span", { text: words }), element("span", { className: "count" }));
      button.addEventListener("click", () => choose(name));
      container.append(button);
    }
  }
  for (const button of container.children) {
    const name = button.dataset.filter;
    button.setAttribute("aria-checked", String(name === state.filter));
    button.querySelector(".count").textContent = state.summary ? String(state.summary.filters[name]) : "";
  }
}

function aboutRow(row, mine) {
  const said = row.comments === 1 ? "1 comment" : row.comments ? `${row.comments} comments` : "";
  return [mine ? `for you, from ${row.handed.giver}` : "", row.hindrance, said, row.reason].filter(Boolean).join(" · ");
}

// What has become of a row; nothing where it only waits.
function whatOfRow(row, holder, mine) {
  if (holder) return `${holder} has it`;
  if (row.handed && !mine) return `for ${row.handed.colleague}`;
  if (row.contested) return "contested";
  return row.verdict ? VERDICT_WORDS[row.verdict] : "";
}

function queueWords(row, state) {
  const holder = holderOf(state, row.id);
  const mine = row.handed?.colleague === state.reviewer;
  const labels = row.labels.length ? row.labels.join(", ") : "no box";
  return {
    state: row.state,
    held: holder !== null || (row.handed !== null && !mine),
    mine,
    what: row.burst > 1 ? `${labels} · ${row.burst} alike` : labels,
    why: aboutRow(row, mine),
    camera: row.camera || row.edge_id,
    became: whatOfRow(row, holder, mine),
    since: row.created_at,
    age: age(row.created_at), // drawn again as it grows
  };
}

function queueRow(id, words, choose) {
  const button = element("button", { className: "row", "data-id": id });
  const state = STATE_WORDS[words.state];
  button.append(
    element("span", { className: `dot is-${words.state}`, title: state }, element("span", { className: "hidden", text: state })),
    element("span", { className: "row-main" }, element("b", { text: words.what }), element("span", { text: words.why })),
    element("span", { className: "row-side" }, element("span", { text: words.camera }), words.became ? element("span", { text: words.became }) : ageNode(words.since)),
  );
  button.classList.toggle("is-held", words.held);
  button.classList.toggle("is-handed", words.mine);
  button.addEventListener("click", () => choose(id));
  return element("li", {}, button);
}

const EMPTY_LIST = {
  open: "Nothing waits here.",
  ready: "No frame is ready.",
  pending: "No frame is on its way.",
  expired: "No frame has lost its full quality.",
  settled: "No frame was settled by a second look.",
  skipped: "No frame was skipped.",
  decided: "No verdict yet.",
};

const queues = new WeakMap(); // list -> what it shows: id -> { words, item }

// Rows that say what they said before stay as they are: 200 of them are listed, and each verdict takes one away.
export function renderQueue(list, state, choose) {
  if (!state.rows.length) {
    queues.delete(list);
    list.replaceChildren(element("li", { className: "queue-empty", text: state.loaded ? EMPTY_LIST[state.filter] : "Loading…" }));
    return;
  }
  const focused = document.activeElement?.closest(".row")?.dataset.id;
  const before = queues.get(list);
  const entries = new Map();
  for (const row of state.rows) {
    const words = queueWords(row, state);
    const known = before?.get(row.id);
    const same = known && Object.keys(words).every((name) => known.words[name] === words[name]);
    entries.set(row.id, same ? known : { words, item: queueRow(row.id, words, choose) });
  }
  queues.set(list, entries);
  const items = [...entries.values()].map(({ item }) => item);
  if (state.total > state.rows.length) {
    items.push(element("li", { className: "queue-empty", text: `and ${state.total - state.rows.length} more` }));
  }
  arrange(list, items);
  const current = entries.get(state.currentId)?.item.firstElementChild ?? null;
  for (const other of list.querySelectorAll("[aria-current]")) if (other !== current) other.removeAttribute("aria-current");
  current?.setAttribute("aria-current", "true");
  if (focused && document.activeElement?.dataset.id !== focused) list.querySelector(`[data-id="${focused}"]`)?.focus();
  keepInSight(list, current);
}

// Make these the children of a list, in this order, and touch none that is in its place.
function arrange(list, items) {
  const wanted = new Set(items);
  for (const child of [...list.children]) if (!wanted.has(child)) child.remove();
  let place = list.firstElementChild;
  for (const item of items) {
    if (item === place) place = place.nextElementSibling;
    else list.insertBefore(item, place);
  }
}

// Within its list alone: where the page scrolls, as on a phone, it stays where it is.
function keepInSight(list, row) {
  if (!row) return;
  const [inside, of] = [row.getBoundingClientRect(), list.getBoundingClientRect()];
  if (inside.top < of.top) list.scrollTop -= of.top - inside.top;
  else if (inside.bottom > of.bottom) list.scrollTop += inside.bottom - of.bottom;
}

function fact(term, text, className = "") {
  return [element("dt", { text: term }), element("dd", { text, className, title: text })];
}

const MOST_SAID = 8;

// "rolf: rejected, box 2, “a shadow”", one for each verdict that stands, the last ones.
function saidOf(review) {
  const standing = review.verdicts.filter((given) => !given.undone && given.id !== undefined).slice(-MOST_SAID);
  return standing.map(({ reviewer, verdict, label, box_index: index, note }) => {
    const box = index === null ? "" : `, box ${index + 1}`;
    return `${reviewer}: ${VERDICT_WORDS[verdict]}${label ? ` ${label}` : ""}${box}${note ? `, “${note}”` : ""}`;
  });
}

const OUTCOMES = { confirmed: "confirmed", refuted: "refuted", in_doubt: "still in doubt" };

// "car 0.41 → 0.83, confirmed": what the machine said when it looked again at a box.
export const againWords = ({ label, before, after, outcome }) =>
  `${label} ${before.toFixed(2)} → ${after === null ? "not found" : after.toFixed(2)}, ${OUTCOMES[outcome]}`;

// The same for each box that was in doubt, and for what a person is asked all the same.
export function seenAgain({ second_look: seen }) {
  return [...(seen?.boxes ?? []).map(againWords), ...(seen?.called_for ? [`now ${seen.called_for}`] : [])];
}

const factAt = (term, ...said) => [element("dt", { text: term }), element("dd", {}, ...said)];

export function renderFacts(list, state, shownSha) {
  const { review } = state;
  if (!review) {
    list.replaceChildren();
    return;
  }
  const { frame } = review;
  const rows = [
    fact("State", STATE_WORDS[review.state], `state is-${review.state}`),
    ...(review.why_expired ? [fact("Why lost", review.why_expired)] : []),
    ...saidOf(review).map((said, at) => fact(at ? "" : "Said", said)),
    ...seenAgain(review).map((seen, at) => fact(at ? "" : "Second look", seen)),
    ...(review.contested ? [fact("Contested", "two people decided it differently")] : []),
    ...(review.why_waiting ? [fact("Waits for", review.why_waiting)] : []),
    ...(review.handed ? [factAt("Handed", `by ${review.handed.giver} to ${review.handed.colleague}, `, timeNode(review.handed.at))] : []),
    fact("Reason", review.reason),
    fact("Priority", String(review.priority)),
    fact("Camera", frame.camera || "–"),
    fact("Edge", frame.edge_id),
    factAt("Captured", timeNode(frame.corrected_at ?? frame.captured_at)),
    ...(frame.corrected_at
      ? [fact("Clock", `camera clock is off by ${Math.abs(Math.round(frame.clock_offset_seconds))} s`, "warning")]
      : []),
    fact("Frame", `#${frame.seq} · boot ${frame.boot_id.slice(0, 8)}`),
    fact("Size", `${frame.width} × ${frame.height}`),
    fact("Base", kilobytes(frame.base_bytes)),
    fact("Enhancement", kilobytes(frame.enhancement_bytes)),
    fact("Fetched", kilobytes(review.fetched_bytes)),
    fact("Codec", review.codec_model ?? "–", "mono"),
    fact("Filter", review.postfilter?.replace(":", " ") ?? "–"),
    fact("Detector", review.detector ?? "–"),
    fact("Shown hash", shownSha ?? "–", "mono"),
  ];
  list.replaceChildren(...rows.flat());
}

export function renderBoxList(list, state, choose) {
  const { review } = state;
  if (!review) {
    list.replaceChildren();
    return;
  }
  const rows = boxesOf(review).map((box, at) => {
    const { colour } = styleOf(box.label);
    const button = element("button", {
      className: box.score === null ? "is-missed" : `is-${box.verdict?.verdict ?? "open"}`,
      "aria-pressed": String(at === state.selectedBox),
    });
    const swatch = element("span", { className: "swatch" });
    swatch.style.background = colour;
    button.append(swatch, element("span", { text: captionOf(box) }));
    const seen = review.second_look?.boxes.find(({ index }) => index === box.index);
    if (seen) button.append(element("span", { className: "soft of-object", text: `second look: ${againWords(seen)}` }));
    if (box.object) button.append(element("span", { className: "soft of-object" }, ...objectWords(box.object)));
    button.classList.toggle("is-below", !isShown(state, box));
    button.addEventListener("click", () => choose(at));
    return element("li", {}, button);
  });
  if (!rows.length) rows.push(element("li", { className: "queue-empty", text: "The detector found nothing in this frame." }));
  list.replaceChildren(...rows);
}

// A thing over the frames of its camera.
export const objectWords = ({ id, since, frames }) =>
  frames > 1 ? [`object ${id}, in ${frames} frames since `, recentNode(since)] : [`object ${id}, in this frame alone`];

// The classes met most, each with its digit.
export function renderCommon(list, common, choose) {
  list.replaceChildren(
    ...common.map((label, at) => {
      const button = element("button", { className: "common", title: `Shift ${at + 1}: the chosen box is ${label}` });
      const swatch = element("span", { className: "swatch" });
      swatch.style.background = styleOf(label).colour;
      button.append(swatch, element("span", { text: label }), element("kbd", { text: `⇧${at + 1}` }));
      button.addEventListener("click", () => choose(at + 1));
      return element("li", {}, button);
    }),
  );
}

// What somebody else decided while this reviewer had the frame open, and what this reviewer said.
export function conflictItem(entry, { conflict, review }) {
  const said = ({ verdict, label, box_index: index }) =>
    `${VERDICT_WORDS[verdict]}${label ? ` ${label}` : ""}${index === null ? "" : ` (box ${index + 1})`}`;
  const classes = review.detections.map((detection) => detection.label).join(", ") || "no box";
  const what = [`${conflict.reviewer}: ${said(conflict)}, `, timeNode(conflict.decided_at), `. You: ${said(entry.body)}.`];
  const lines = [element("b", { text: `Frame #${review.frame.seq} (${classes}) ` }), element("span", {}, ...what)];
  if (conflict.note) lines.push(element("div", { className: "note", text: `“${conflict.note}”` }));
  return element("li", {}, ...lines);
}

// What is said already is not said again: it stays for longer, whatever key is held down.
export function toast(container, text, kind = "info") {
  let node = [...container.children].find((one) => one.textContent === text && one.classList.contains(kind));
  if (node) clearTimeout(node.ends);
  else {
    node = element("div", { className: `toast ${kind}`, text });
    container.append(node);
  }
  while (container.childElementCount > 3) container.firstElementChild.remove();
  node.ends = setTimeout(() => node.remove(), kind === "error" ? 6000 : 2200);
}
