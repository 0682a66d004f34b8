// Figures: one's own day, how far people agree, and what their verdicts say of the detector.

import * as api from "./api.js";
import { BASE } from "./base.js";
import { Choice } from "./listing.js";
import { element } from "./panels.js";
import { VERDICT_WORDS } from "./state.js";
import { utc } from "./times.js";

const SVG = "http://www.w3.org/2000/svg";
const DAY_MS = 86_400_000;
const byId = (id) => document.getElementById(id);

const percent = (share) => (share === null ? "–" : `${(100 * share).toFixed(share % 1 && (share > 0.99 || share < 0.1) ? 1 : 0)} %`);
const share = (part, whole) => (whole ? percent(part / whole) : "–");
const hundredths = (value) => (value === null ? "–" : value.toFixed(2));

// Bars of counts; `label` says the same in words.
function bars(counts, label) {
  const most = Math.max(1, ...counts);
  const drawing = document.createElementNS(SVG, "svg");
  const shape = { viewBox: `0 0 ${counts.length * 10} 40`, class: "bars", role: "img", preserveAspectRatio: "none", "aria-label": label };
  for (const [name, value] of Object.entries(shape)) drawing.setAttribute(name, value);
  counts.forEach((count, at) => {
    const height = count ? Math.max((count / most) * 38, 3) : 1;
    const bar = document.createElementNS(SVG, "rect");
    for (const [name, value] of Object.entries({ x: at * 10 + 1, y: 40 - height, width: 8, height })) bar.setAttribute(name, value);
    if (!count) bar.setAttribute("class", "none");
    drawing.append(bar);
  });
  return drawing;
}

function figure(value, words) {
  return element("div", { className: "figure" }, element("b", { text: value }), element("span", { text: words }));
}

function table(caption, heads, rows, none) {
  if (!rows.length) return element("p", { className: "soft", text: none });
  const head = element("tr", {}, ...heads.map((text, at) => element("th", { scope: "col", text, className: at ? "number" : "" })));
  const body = rows.map((cells) =>
    element("tr", {}, ...cells.map((cell, at) => (at ? element("td", { className: "number", text: String(cell) }) : element("th", { scope: "row", text: String(cell) })))),
  );
  return element("div", { className: "table-wrap", tabindex: "0", role: "region", "aria-label": caption }, element("table", {}, element("caption", { text: caption }), element("thead", {}, head), element("tbody", {}, ...body)));
}

export class FiguresPage {
  // `on`: go(route, search), reviewer().
  constructor(on) {
    this.on = on;
    this.turn = 0;
    this.choice = new Choice(byId("figures-search"), (search) => on.go({ page: "figures", id: null }, search));
  }

  async show(search) {
    this.choice.fill(search);
    const turn = ++this.turn;
    const days = Number(this.choice.values.days ?? 30);
    const midnight = new Date();
    midnight.setHours(0, 0, 0, 0);
    const since = new Date(Date.now() - days * DAY_MS).toISOString();
    const parts = [
      ["figures-day", () => api.getDay(midnight.toISOString()), (day) => this.#day(day)],
      ["figures-agreement", () => api.getAgreement(since), (report) => this.#agreement(report)],
      ["figures-detector", () => api.getDetectorReport(since), (report) => this.#detector(report)],
    ];
    await Promise.all(
      parts.map(async ([id, ask, shown]) => {
        const place = byId(id);
        if (!place.childElementCount) place.replaceChildren(element("p", { className: "soft", text: "Loading…" }));
        try {
          const answer = await ask();
          if (turn === this.turn) place.replaceChildren(...shown(answer));
        } catch (error) {
          if (turn === this.turn) place.replaceChildren(element("p", { className: "problem", text: `The figures did not come: ${error.message}` }));
        }
      }),
    );
  }

  #day(day) {
    const kinds = Object.entries(day.verdicts).map(([kind, count]) => `${count} ${VERDICT_WORDS[kind] ?? kind}`);
    const first = new Date(day.since).getHours();
    const figures = element(
      "div",
      { className: "figures" },
      figure(String(day.frames), "frames today"),
      figure(day.frames_an_hour === null ? "–" : String(Math.round(day.frames_an_hour)), "an hour while at it"),
      figure(day.seconds_a_frame === null ? "–" : `${day.seconds_a_frame.toFixed(1)} s`, "a frame, median"),
      figure(String(day.undone), "taken back"),
    );
    const hours = day.hours.map((count, at) => (count ? `${(first + at) % 24}:00 ${count}` : "")).filter(Boolean);
    const charts = element(
      "div",
      { className: "charts" },
      element("figure", { title: `Hours from ${utc(day.since)} on` }, element("figcaption", { text: "Hour by hour" }), bars(day.hours, `Frames by hour: ${hours.join(", ") || "none"}`)),
      element("figure", {}, element("figcaption", { text: "The last 14 days" }), bars(day.days, `Frames a day, the last of them today: ${day.days.join(", ")}`)),
    );
    const history = element("a", { href: `${BASE}history?${new URLSearchParams({ actor: day.reviewer })}`, "data-link": "", text: "Your history" });
    const words = element("p", { className: "soft", text: kinds.length ? `${kinds.join(" · ")}. ` : "No verdict of yours today. " }, history);
    const team = day.team.map((one) => [one.reviewer, one.frames]);
    return [figures, charts, words, table("Everybody today", ["Who", "Frames"], team, "Nobody has judged a frame today.")];
  }

  #agreement(report) {
    const { second, third, agreed, settled } = report.stages;
    const decided = agreed + settled;
    const figures = element(
      "div",
      { className: "figures" },
      figure(String(decided), "frames judged twice"),
      figure(share(agreed, decided), "the same at once"),
      figure(hundredths(report.overall.kappa), "Cohen’s κ, all classes"),
      figure(String(second), "wait for a second person"),
      figure(String(third), "wait for a third"),
    );
    const classes = report.classes.map((one) => [one.label || "no box", one.items, share(one.alike, one.items), hundredths(one.kappa)]);
    const people = report.people.map((one) => [
      one.reviewer,
      one.doubles,
      share(one.upheld, one.doubles),
      one.known,
      share(one.known_right, one.known),
      percent(one.precision),
      percent(one.recall),
    ]);
    return [
      figures,
      table("Agreement by class", ["Class", "Judged twice", "Alike", "κ"], classes, "No frame has been judged by two people. The share that is, is the setting review.double_share."),
      table(
        `Reviewers, by double review and ${report.known_frames} known ${report.known_frames === 1 ? "frame" : "frames"}`,
        ["Who", "Double", "Upheld", "Known", "All right", "Precision", "Recall"],
        people,
        report.known_frames ? "Nobody has judged a known frame." : "There are no known frames. An admin chooses them among those that are decided; review.known_share mixes them in.",
      ),
    ];
  }

  #detector(report) {
    const { band, doubt } = report;
    const row = (one) => [one.name, one.judged, one.right, percent(one.precision)];
    const heads = (what) => [what, "Judged", "Right", "Precision"];
    const figures = element(
      "div",
      { className: "figures" },
      figure(String(report.judged), "boxes judged"),
      figure(share(report.right, report.judged), "right"),
      figure(String(report.missed.reduce((sum, one) => sum + one.count, 0)), "objects missed"),
    );
    const told = band
      ? `Scores from ${doubt[0]} to ${doubt[1]} are reviewed for doubt now: ${band.load_now} boxes were. From ${band.low} to ${band.high} it would have been ${band.load}, ` +
        `with ${band.missed === 0 ? "no object" : `${band.missed} objects`} more missed; of the ${band.above} above, ${band.wrong} (${share(band.wrong, band.above)}) are wrong and would have counted as found.`
      : `No box with a score from ${doubt[0]} to ${doubt[1]} has been judged: nothing can be said of a narrower band.`;
    return [
      figures,
      element("p", { className: "band" }, element("b", { text: "Half the work: " }), told),
      table("By class", heads("Class"), report.classes.map(row), "No box has been judged."),
      table("By camera", heads("Camera"), report.cameras.map(row), ""),
      table("By score", heads("From"), report.scores.map(row), ""),
      table("Objects that people drew", ["Class", "Missed"], report.missed.map((one) => [one.name, one.count]), ""),
    ];
  }
}
