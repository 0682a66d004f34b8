// Wires the parts: store, desk (flow), stage (picture), panels, keys.

import { askLogin, attachAccount, foundLogin, showAccount } from "./account.js";
import { getMe, getPreferences, getStation, lookAs, onLoggedOut, setKnown, setPreferences } from "./api.js";
import { BASE } from "./base.js";
import { attachDrawing, attachEditing, boxAt, BoxLayer } from "./boxes.js";
import { boxesOf } from "./boxmodel.js";
import { attachDivider, shownVersions, VERSION_WORDS } from "./compare.js";
import { CamerasPage } from "./cameraspage.js";
import { Desk } from "./desk.js";
import { differenceOf } from "./difference.js";
import { FiguresPage } from "./figurespage.js";
import { FramesPage } from "./framespage.js";
import { GridPage } from "./grid.js";
import { HistoryPage } from "./historypage.js";
import { PeoplePage } from "./people.js";
import { askReviewer, showConflict, showHelp, storedReviewer } from "./dialogs.js";
import { ImageCache, VERSIONS } from "./images.js";
import { Judging } from "./judging.js";
import { Talk } from "./talk.js";
import { attachKeys, renderHelp } from "./keys.js";
import { Notes } from "./notes.js";
import { MOST_UNSAVED } from "./outbox.js";
import * as panels from "./panels.js";
import { attachRouter, routeOf, showRoute } from "./router.js";
import { bestVersion, createStore, DECIDABLE, initialState, isElsewhere, isMine, PENDING } from "./state.js";
import { chooseTheme, chosenTheme, THEMES } from "./theme.js";
import { Strip } from "./strip.js";
import { buildVerdictBar, renderVerdictBar } from "./verdictbar.js";
import { attachPointer, Stage } from "./view.js";

const CLICK_PIXELS = 4;

const byId = (id) => document.getElementById(id);
const store = createStore(initialState());
const images = new ImageCache((bitmap) => [stage.picture, stage.left].includes(bitmap));
const tell = (text, kind) => panels.toast(byId("toasts"), text, kind);
const notes = new Notes();
const desk = new Desk(store, images, notes, { tell, conflict: showOther, loggedOut, answered: foundLogin, busy: isBusy });

const stageElement = byId("stage");
const layer = new BoxLayer(byId("overlay"));
const strip = new Strip(
  byId("strip"),
  byId("strip-list"),
  (neighbour) => store.set({ neighbour }),
  (bitmap) => [stage.picture, store.get().neighbour?.bitmap].includes(bitmap),
);
let started = false;
let rubber = null; // the box being drawn, in frame pixels
let onScreen = null; // { id, version, sha256 } of the picture on the canvas
const stage = new Stage(stageElement, byId("canvas"), () => {
  layer.draw(stage, store.get(), rubber);
  byId("zoom").textContent = store.get().review ? `${Math.round(stage.scale * 100)}%` : "";
});

const judging = new Judging(store, desk, notes, { tell, onScreen: () => onScreen, focus: () => stageElement.focus() });
const talk = new Talk(store, desk, { tell, focus: () => stageElement.focus() });

// Whether something is begun that another frame would take away: a box, a text, an answer to a question.
function isBusy() {
  const { currentId, draft, drawing } = store.get();
  const asked = document.querySelector("dialog[open]") !== null;
  const writes = document.activeElement?.matches("textarea") || (currentId !== null && notes.of(currentId) !== "");
  return Boolean(draft || drawing || asked || writes);
}

// --- the picture

function showPicture(state) {
  const { review } = state;
  const { main, left, against } = shownVersions(state);
  if (state.neighbour && review) {
    onScreen = null; // nothing can be judged by another frame's picture
    stage.show(state.neighbour.bitmap);
    return;
  }
  if (!review || !main) {
    onScreen = null;
    stage.show(null);
    return;
  }
  if (stage.frameId !== review.id) {
    stage.frameId = review.id;
    stage.setFrame(review.frame.width, review.frame.height);
  }
  for (const version of [main, left, against]) if (version) want(review, version);
  const other = against && main !== against ? images.peek(review.id, against) : null;
  // Until the version asked for is here, base is better than nothing; the tag says which one it is.
  const picture = images.peek(review.id, main) ?? images.peek(review.id, "base");
  const leftPicture = left ? images.peek(review.id, left) : null;
  onScreen = picture ? { id: review.id, version: picture.version, sha256: picture.sha256 } : null;
  if (other && picture) {
    onScreen = null; // nor by what is no picture
    stage.show(differenceOf(picture.bitmap, other.bitmap));
  } else stage.show(picture?.bitmap ?? null, leftPicture?.bitmap ?? null);
}

const awaited = new WeakSet(); // pictures that are on their way: one that comes is drawn once

function want(review, version) {
  const loading = desk.loadImage(review, version);
  if (awaited.has(loading) || images.peek(review.id, version) || images.errorOf(review.id, version)) return;
  awaited.add(loading);
  const again = () => store.get().currentId === review.id && store.set({});
  loading.then(again, again);
}

function noticeFor(state) {
  const { review } = state;
  if (!review) return state.currentId === null ? "" : "Loading…";
  if (state.draft) return "Changed: Enter keeps it, Esc drops it";
  if (state.drawing) return "Drag a box around the missed object · Esc to stop";
  if (isHandedElsewhere(state)) return `${review.handed.giver} handed this frame to ${review.handed.colleague}`;
  if (state.holder) return `${state.holder} has this frame open to judge it`;
  if (state.lost) return "This frame is not kept for you any more";
  const wanted = bestVersion(review, state.version, state.learned);
  const error = wanted && images.errorOf(review.id, wanted);
  if (error) return `${VERSION_WORDS[wanted]} picture: ${error}`;
  if (PENDING.has(review.state)) {
    const holdup = review.why_waiting ?? "full quality is on its way";
    if (review.crop && review.images.refined) return `Crop only · the rest: ${review.why_waiting ?? "on its way"}`;
    return review.images.base ? `Base picture · ${holdup}` : `Waiting for the picture${review.why_waiting ? ` · ${holdup}` : ""}`;
  }
  if (review.state === "decided" && review.known) return "Known frame: reviewers are tried with it";
  if (review.state === "settled") return `Nobody is asked · second look: ${panels.seenAgain(review).join("; ")}`;
  if (review.state === "skipped") return "Skipped: more frames asked for a look than the site's limit of open reviews";
  if (review.state === "expired") return `Base picture only · ${review.why_expired ?? "full quality was lost"}`;
  if (isCrop(review)) return cropNotice(review);
  if (isMine(state, review)) return `${review.handed.giver} handed this frame to you`;
  return review.state === "ready" && review.second_look ? `Second look: ${panels.seenAgain(review).join("; ")}` : "";
}

const isCrop = (review) => ["ready", "settled"].includes(review?.state) && Boolean(review.crop);

const cropNotice = ({ why_expired: why }) =>
  why ? `Crop only · the rest could not be had: ${why}` : "Full quality inside the dashed line, base picture around it";

const isHandedElsewhere = (state) => DECIDABLE.has(state.review?.state) && isElsewhere(state, state.review);

// What can be done about a frame that is not this page's: [words, action], or null.
function remedy(state) {
  if (!state.mayJudge) return null;
  if (isHandedElsewhere(state)) return ["Take it", () => desk.takeOver()];
  if (state.holder) return state.role === "admin" ? ["Free it", () => desk.free()] : null;
  return state.lost ? ["Take it again", () => desk.claim()] : null;
}

function renderStage(state) {
  const empty = state.loaded && state.currentId === null;
  for (const section of document.querySelectorAll(".facts > *")) section.hidden = empty;
  byId("empty").hidden = !empty;
  if (empty && state.missing !== null) {
    const button = panels.element("button", { className: "primary", text: "To the list" });
    button.addEventListener("click", () => void desk.openFirst());
    byId("empty").replaceChildren(
      panels.element("p", { className: "empty-title", text: "There is no such frame" }),
      panels.element("p", { text: state.missing }),
      panels.element("p", {}, button),
    );
  } else if (empty) {
    const calm = state.filter === "open" || state.filter === "ready";
    const done = state.summary?.decided_last_day ?? 0;
    byId("empty").replaceChildren(
      panels.element("p", { className: "empty-title", text: calm ? "No frame needs a second look right now" : "Nothing here" }),
      panels.element("p", {
        text: calm ? `New ones appear by themselves. ${done} decided in the last 24 hours.` : "Choose another list on the left.",
      }),
    );
  }
  const notice = byId("notice");
  notice.replaceChildren(noticeFor(state));
  notice.className = `notice ${state.drawing ? "drawing" : (state.review?.state ?? "")}`;
  if (["expired", "settled", "skipped"].includes(state.review?.state) && !state.drawing && !state.holder && !state.lost) {
    const text = state.review.state === "expired" ? "Ask the camera again" : "Look at it after all";
    const button = panels.element("button", { className: "tool", text });
    button.addEventListener("click", () => desk.retry());
    notice.append(button);
  }
  if (isCrop(state.review) && state.mayJudge && !state.drawing && !state.draft && !state.holder && !state.lost) {
    const button = panels.element("button", { className: "tool", text: "Whole frame (V)" });
    button.addEventListener("click", () => desk.fetchWhole());
    notice.append(button);
  }
  if (state.draft) {
    for (const [text, act] of [["Keep", () => judging.keep()], ["Drop", () => store.set({ draft: null })]]) {
      const button = panels.element("button", { className: "tool", text });
      button.addEventListener("click", act);
      notice.append(button);
    }
  }
  const action = remedy(state);
  if (action && !state.drawing) {
    const button = panels.element("button", { className: "tool", text: action[0] });
    button.addEventListener("click", action[1]);
    notice.append(button);
  }
  const mark = knownButton(state);
  if (mark) notice.append(mark);
  const comparing = Boolean(onScreen && shownVersions(state).left);
  byId("divider").hidden = !comparing;
  byId("tag-left").textContent = comparing ? VERSION_WORDS.base : "";
  const instead = state.neighbour?.text ?? (state.differing && state.review ? "Difference from base" : "");
  byId("tag-right").textContent = instead || (onScreen ? VERSION_WORDS[onScreen.version] : "");
  stageElement.classList.toggle("drawing", state.drawing);
}

// An admin chooses by which decided frames reviewers are tried.
function knownButton({ review, role, reviewer, drawing }) {
  if (role !== "admin" || drawing || review?.state !== "decided" || review.contested) return null;
  const button = panels.element("button", { className: "tool", text: review.known ? "No known frame any more" : "Use it as a known frame" });
  button.addEventListener("click", async () => {
    try {
      await setKnown(review.id, !review.known, reviewer);
      await desk.refreshCurrent();
      tell(review.known ? "Nobody is tried with it any more" : "Reviewers are tried with it from now on");
    } catch (error) {
      tell(error.message, "error");
    }
  });
  return button;
}

// --- toolbars

function segmented(container, names, choose) {
  for (const [index, name] of names.entries()) {
    const button = panels.element("button", { role: "radio", "data-version": name, text: `${VERSION_WORDS[name]} ` });
    button.append(panels.element("kbd", { text: String(index + 1) }));
    button.addEventListener("click", () => choose(name));
    container.append(button);
  }
}

function renderToolbars(state) {
  const { review } = state;
  for (const button of byId("versions").children) {
    const { version } = button.dataset;
    button.setAttribute("aria-checked", String(version === bestVersion(review, state.version, state.learned)));
    button.disabled = !review?.images[version] || (version === "refined" && !state.learned);
  }
  byId("compare").setAttribute("aria-pressed", String(state.comparing));
  byId("boxes").setAttribute("aria-pressed", String(state.showBoxes));
  byId("difference").setAttribute("aria-pressed", String(state.differing));
  byId("around").setAttribute("aria-pressed", String(strip.open));
  const alike = state.rows.find((row) => row.id === state.currentId)?.burst ?? 1;
  byId("burst").hidden = alike < 2;
  byId("burst-count").textContent = `${alike} alike`;
  for (const id of ["compare", "difference", "around", "zoom-box", "fit"]) byId(id).disabled = !review;
  byId("score-value").textContent = `${Math.round(state.minScore * 100)}%`;
  renderVerdictBar(byId("verdicts"), state);
}

// --- what keys and buttons do

const note = byId("note");

// What is being written stays with its frame, and goes with the verdict that takes it.
function renderNote({ currentId }) {
  const text = currentId === null ? "" : notes.of(currentId);
  if (note.value !== text) note.value = text;
  note.disabled = currentId === null;
}

const PAGES = ["review", "grid", "frames", "cameras", "history", "figures", "people"];
const onPages = {
  go: (route, search) => void go(route, search),
  tell,
  reviewer: () => store.get().reviewer,
  mayJudge: () => store.get().mayJudge,
  settled: () => desk.outbox.settled(),
  // To the next frame of the queue, once others were judged elsewhere.
  async next() {
    await desk.refreshList().catch((error) => tell(error.message, "error"));
    await go({ page: "review", id: null });
    await desk.openFirst();
  },
  async undo(id) {
    if (await desk.undo(id)) await go({ page: "review", id: store.get().currentId });
  },
};
const framesPage = new FramesPage(onPages);
const shown = {
  grid: (_id, search) => gridPage.show(search),
  frames: (id, search) => framesPage.show(id, search),
  cameras: (_id, search) => camerasPage.show(search),
  history: (_id, search) => historyPage.show(search),
  figures: (_id, search) => figuresPage.show(search),
  people: () => peoplePage.show(),
};
const gridPage = new GridPage(desk.claims, onPages);
const camerasPage = new CamerasPage();
const figuresPage = new FiguresPage(onPages);
const historyPage = new HistoryPage(onPages);
const peoplePage = new PeoplePage(tell);
const leaving = { frames: framesPage, cameras: camerasPage, history: historyPage };

// Show a page; `search`: what else the address says, as "?camera=gate".
async function go({ page, id }, search = "") {
  if (page === "review" && id !== null && id !== store.get().currentId) void desk.open(id);
  store.set({ page });
  for (const [name, left] of Object.entries(leaving)) if (page !== name) left.leave();
  showRoute({ page, id: page === "review" ? (id ?? store.get().currentId) : id }, search);
  if (page === "review") stageElement.focus();
  else await shown[page](id, search).catch((error) => tell(error.message, "error"));
}

const toggle = (name) => store.set({ [name]: !store.get()[name] });
const setVersion = (version) => store.set({ version });
const onReview = (action) => (...given) => (store.get().page === "review" ? action(...given) : false);

const reviewActions = {
  confirm: () => judging.judge("confirm"),
  reject: () => judging.judge("reject"),
  unsure: () => judging.judge("unsure"),
  wrongClass: () => void judging.wrongClass(),
  class: (number) => {
    const label = store.get().common[number - 1];
    if (label) void judging.setClass(label);
  },
  keep: () => judging.keep(),
  remove: () => void judging.remove(),
  snap: () => judging.snap(),
  part: () => judging.nextPart(),
  nudgeLeft: () => judging.nudge(-1, 0),
  nudgeRight: () => judging.nudge(1, 0),
  nudgeUp: () => judging.nudge(0, -1),
  nudgeDown: () => judging.nudge(0, 1),
  missed: () => store.set({ drawing: Boolean(store.get().review) && !store.get().drawing }),
  undo: () => void desk.undo(),
  next: () => judging.mayLeave() && desk.step(1),
  previous: () => judging.mayLeave() && desk.step(-1),
  nextBox: () => judging.move(1),
  previousBox: () => judging.move(-1),
  cancel() {
    const { drawing, draft, neighbour } = store.get();
    if (neighbour) return strip.stop();
    store.set(drawing ? { drawing: false } : draft ? { draft: null } : { selectedBox: null });
  },
  base: () => setVersion("base"),
  enhanced: () => setVersion("enhanced"),
  refined: () => setVersion("refined"),
  compare: () => store.set({ comparing: !store.get().comparing, differing: false }),
  difference: () => store.set({ differing: !store.get().differing, comparing: false }),
  around() {
    strip.toggle();
    store.set({});
  },
  play() {
    void strip.play();
    store.set({});
  },
  burst() {
    const { currentId, rows } = store.get();
    if ((rows.find((row) => row.id === currentId)?.burst ?? 1) < 2) return false;
    void go({ page: "grid", id: null }, `?burst=${currentId}`);
    return true;
  },
  boxes: () => toggle("showBoxes"),
  zoomBox() {
    if (!judging.chosen()) judging.move(1);
    const chosen = judging.chosen();
    if (chosen) stage.zoomTo(chosen.box);
  },
  fit: () => stage.fit(),
  zoomIn: () => stage.zoomCentre(1.25),
  zoomOut: () => stage.zoomCentre(0.8),
  fetchWhole: () => void desk.fetchWhole(),
  note: () => note.focus(),
  comment: () => talk.write(),
  handOver: () => void talk.handOver(),
  hold: (down) => store.get().holding !== down && store.set({ holding: down }),
};

const actions = {
  ...Object.fromEntries(Object.entries(reviewActions).map(([name, action]) => [name, onReview(action)])),
  confirm: () => (store.get().page === "grid" ? gridPage.confirm() : onReview(reviewActions.confirm)()),
  reject: () => (store.get().page === "grid" ? gridPage.reject() : onReview(reviewActions.reject)()),
  history: () => void go({ page: store.get().page === "review" ? "history" : "review", id: null }),
  help: showHelp,
};

// --- wiring

function attachControls() {
  segmented(byId("versions"), VERSIONS, setVersion);
  buildVerdictBar(byId("verdicts"), actions);
  renderHelp(byId("help-keys"));
  const clicks = { compare: "compare", boxes: "boxes", "zoom-box": "zoomBox", fit: "fit", help: "help", difference: "difference", around: "around", play: "play", burst: "burst" };
  for (const [id, action] of Object.entries(clicks)) byId(id).addEventListener("click", () => actions[action]());
  attachRouter((route, search) => void go(route, search));
  byId("handed").addEventListener("click", () => void go({ page: "review", id: null }).then(() => judging.mayLeave() && desk.openMine()));
  attachTheme();
  attachFolds();
  addEventListener("resize", () => showTab(store.get().page));
  byId("learned").addEventListener("change", (event) => {
    store.set({ learned: event.target.checked });
    setPreferences(store.get().reviewer, { learned_filter: event.target.checked }).catch((error) => tell(error.message, "error"));
  });
  byId("score").addEventListener("input", (event) => store.set({ minScore: Number(event.target.value) / 100 }));
  byId("reviewer").addEventListener("click", async () => store.set({ reviewer: await askReviewer(store.get().reviewer) }));
  note.addEventListener("input", () => store.get().currentId !== null && notes.write(store.get().currentId, note.value));
  note.addEventListener("keydown", (event) => {
    if (event.key === "Escape" || (event.key === "Enter" && !event.shiftKey)) {
      event.preventDefault();
      stageElement.focus();
    }
  });
  // After a mouse click on a tool the keys belong to the picture again; keyboard users keep their place.
  for (const area of document.querySelectorAll(".toolbar, .verdicts, .queue, .facts .box-list")) {
    area.addEventListener("click", (event) => event.detail > 0 && stageElement.focus());
  }
}

function attachTheme() {
  for (const theme of THEMES) {
    const button = panels.element("button", { role: "radio", text: theme, "aria-checked": String(theme === chosenTheme()) });
    button.addEventListener("click", () => {
      chooseTheme(theme);
      for (const other of byId("theme").children) other.setAttribute("aria-checked", String(other === button));
    });
    byId("theme").append(button);
  }
}

// What there is to read about the frame is folded where it would push out what there is to do.
function attachFolds() {
  const roomy = matchMedia("(min-height: 860px) and (min-width: 941px)");
  const fold = () => (byId("frame-facts").open = roomy.matches);
  roomy.addEventListener("change", fold);
  fold();
}

function chosenToEdit() {
  const state = store.get();
  const chosen = judging.chosen();
  if (!chosen || !state.mayJudge || state.drawing || !state.showBoxes) return null;
  const others = boxesOf(state.review).flatMap((one) => [one.detected, one === chosen ? null : one.box]);
  return { box: state.draft ?? chosen.box, frame: state.review.frame, others: others.filter(Boolean) };
}

function attachStage() {
  const drawing = () => store.get().drawing;
  const editing = attachEditing(stage, chosenToEdit, (box) => judging.edit(box));
  attachPointer(stage, () => drawing() || editing());
  attachDivider(stage, byId("divider"), () => store.get().comparing);
  attachDrawing(
    stage,
    drawing,
    (box) => {
      rubber = box;
      stage.redraw();
    },
    (box) => void judging.addMissed(box),
  );
  let pressed = null;
  stageElement.addEventListener("pointerdown", (event) => {
    pressed = drawing() || event.target.closest(".divider, button") ? null : [event.clientX, event.clientY];
  });
  stageElement.addEventListener("pointerup", (event) => {
    const { review } = store.get();
    if (!pressed || !review) return;
    const moved = Math.hypot(event.clientX - pressed[0], event.clientY - pressed[1]);
    const bounds = stageElement.getBoundingClientRect();
    if (moved < CLICK_PIXELS) {
      judging.select(boxAt(stage, store.get(), event.clientX - bounds.left, event.clientY - bounds.top));
    }
  });
}

const CONNECTION_WORDS = { "": "", slow: "Station does not answer", lost: "Station not reached, trying again" };

function renderUnsaved({ unsaved, connection }) {
  byId("unsaved").hidden = unsaved === 0;
  byId("unsaved").textContent = `${unsaved} unsaved`;
  byId("unsaved").classList.toggle("stuck", connection !== "" || unsaved >= MOST_UNSAVED);
}

// On a phone the row of pages is longer than the screen is wide.
function showTab(page) {
  const [tabs, tab] = [byId("pages"), byId(`tab-${page}`)];
  tabs.scrollLeft = Math.max(tab.offsetLeft - tabs.offsetLeft - (tabs.clientWidth - tab.offsetWidth) / 2, 0);
}

let factsOf; // the hash that the facts tell
const claimsOf = ({ summary }) => JSON.stringify(summary?.claims ?? []);

function render(state, before) {
  const { review } = state;
  showPicture(state);
  renderStage(state);
  renderToolbars(state);
  if (review !== before.review || state === before) void strip.follow(review?.frame.id ?? null);
  const changed = (...names) => state === before || names.some((name) => state[name] !== before[name]);
  if (changed("review") || onScreen?.sha256 !== factsOf) {
    factsOf = onScreen?.sha256;
    panels.renderFacts(byId("facts"), state, factsOf);
  }
  if (changed("review", "selectedBox", "minScore")) {
    panels.renderBoxList(byId("box-list"), state, (at) => judging.select(at));
  }
  if (changed("rows", "currentId", "loaded", "filter") || claimsOf(state) !== claimsOf(before)) {
    panels.renderQueue(byId("queue"), state, (id) => judging.mayLeave() && void desk.open(id));
  }
  panels.renderFilters(byId("filters"), state, (filter) => void desk.setFilter(filter));
  if (started && state.page === "review" && state.currentId !== before.currentId) {
    showRoute({ page: "review", id: state.currentId }, "");
  }
  panels.renderProgress(byId("progress"), state.summary);
  const waiting = state.summary?.handed ?? 0;
  byId("handed").hidden = waiting === 0;
  byId("handed").textContent = `${waiting} for you`;
  renderNote(state);
  talk.render(state);
  renderUnsaved(state);
  byId("reviewer").textContent = state.reviewer || "Reviewer";
  byId("reviewer").hidden = state.user !== null;
  byId("connection").textContent = CONNECTION_WORDS[state.connection];
  for (const page of PAGES) {
    byId(`page-${page}`).hidden = state.page !== page;
    if (state.page === page) {
      byId(`tab-${page}`).setAttribute("aria-current", "page");
      if (page !== before.page || state === before) showTab(page);
    } else byId(`tab-${page}`).removeAttribute("aria-current");
  }
}

// --- the session, and other people

function loggedOut() {
  const here = location.pathname.slice(BASE.length) + location.search;
  if (!started) location.replace(`${BASE}login${here ? `?next=${encodeURIComponent(here)}` : ""}`);
  else askLogin(store.get().user, loggedIn);
}

function loggedIn(me) {
  // Somebody else has another list and other rights; what waits here waits for its own giver.
  if (me.name !== store.get().user) location.reload();
  store.set({ mayJudge: me.role !== "viewer", role: me.role });
  showAccount(me);
  desk.outbox.kick();
  stageElement.focus();
}

function showOther(entry, answer) {
  const item = panels.conflictItem(entry, answer);
  showConflict([item], () => void desk.open(entry.reviewId));
}

function beforeUnload(event) {
  if (desk.outbox.count) event.preventDefault();
}

async function start() {
  onLoggedOut(loggedOut);
  addEventListener("beforeunload", beforeUnload);
  addEventListener("online", () => desk.outbox.kick());
  attachControls();
  attachStage();
  attachKeys(actions, stageElement);
  attachAccount(() => desk.outbox.count);
  store.set({ page: routeOf()?.page ?? "review" }); // no other page is seen before it
  store.subscribe(({ reviewer }) => lookAs(reviewer));
  store.subscribe(render);
  const [me, station] = await Promise.all([getMe(), getStation()]);
  store.set({ role: me.role });
  if (me.name !== null) store.set({ user: me.name, reviewer: me.name, mayJudge: me.role !== "viewer" });
  showAccount(me);
  document.title = station.title;
  byId("title").textContent = station.title;
  store.set({ title: station.title, labels: station.labels, common: station.common });
  panels.renderCommon(byId("common"), station.common, (number) => actions.class(number));
  if (me.name === null) store.set({ reviewer: storedReviewer() || (await askReviewer("")) });
  const preferences = getPreferences(store.get().reviewer);
  const others = await desk.outbox.load(me.name);
  const chosen = await preferences;
  const learned = station.learned_filter && chosen.learned_filter;
  byId("learned").checked = learned;
  byId("learned").disabled = !station.learned_filter; // of the whole site
  store.set({ learned });
  byId("tab-people").hidden = me.role !== "admin";
  started = true;
  if (others.length) tell(`${others.length} unsaved verdicts of ${[...new Set(others)].join(", ")} wait here for their log-in`);
  await go(routeOf() ?? { page: "review", id: null }, location.search);
  await desk.follow();
}

start().catch((error) => tell(`The station did not start: ${error.message}`, "error"));
