// Boxes over the picture (SVG in stage pixels, so that strokes and labels keep their size), and the tools that draw a
// missed object and change one that is there. Nodes are kept while the picture moves: 200 boxes must follow a drag.

import { boxesOf, captionOf, isShown, movedBox, resizedBox, snapped, styleOf } from "./boxmodel.js";

const SVG = "http://www.w3.org/2000/svg";
const MIN_SIDE = 3; // frame pixels; less is a click, not a box
const SNAP = 6; // stage pixels
const GRIP = 11; // stage pixels around a side or corner in which it can be taken
const LABEL_HEIGHT = 18;

const ruler = document.createElement("canvas").getContext("2d");
ruler.font = "600 12px system-ui, sans-serif";

function svg(name, attributes, parent) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  parent?.append(node);
  return node;
}

function place(node, x, y, width, height) {
  node.setAttribute("x", x);
  node.setAttribute("y", y);
  node.setAttribute("width", Math.max(width, 0));
  node.setAttribute("height", Math.max(height, 0));
}

class BoxNode {
  constructor(parent) {
    this.group = svg("g", {}, parent);
    this.halo = svg("rect", { class: "halo", rx: 2 }, this.group);
    this.line = svg("rect", { class: "line", rx: 2 }, this.group);
    this.label = svg("g", {}, this.group);
    this.plate = svg("rect", { class: "plate", rx: 3 }, this.label);
    this.text = svg("text", {}, this.label);
    this.key = "";
  }

  // What does not change while the picture moves.
  dress({ box, caption, classes, style }) {
    this.box = box;
    const key = `${caption}|${classes}|${style.colour}|${style.dash}`;
    if (key === this.key) return;
    this.key = key;
    this.group.setAttribute("class", `box ${classes}`);
    this.line.setAttribute("stroke", style.colour);
    this.line.setAttribute("stroke-dasharray", style.dash);
    this.plate.setAttribute("fill", style.colour);
    this.text.textContent = caption;
    this.width = caption ? ruler.measureText(caption).width + 14 : 0;
  }

  move(stage, taken) {
    const [x0, y0] = stage.toStage(this.box[0], this.box[1]);
    const [x1, y1] = stage.toStage(this.box[2], this.box[3]);
    for (const shape of [this.halo, this.line]) place(shape, x0, y0, x1 - x0, y1 - y0);
    const above = y0 - LABEL_HEIGHT - 1 >= 0 ? y0 - LABEL_HEIGHT - 1 : Math.max(y0, 0);
    const room = [x0, above, x0 + this.width, above + LABEL_HEIGHT];
    const covered = taken.some((one) => room[0] < one[2] && one[0] < room[2] && room[1] < one[3] && one[1] < room[3]);
    const shown = this.width > 0 && !covered; // a label gives way to those before it
    this.label.setAttribute("visibility", shown ? "visible" : "hidden");
    if (!shown) return;
    taken.push(room);
    place(this.plate, x0, above, this.width, LABEL_HEIGHT);
    this.text.setAttribute("x", x0 + 7);
    this.text.setAttribute("y", above + 13);
  }
}

export class BoxLayer {
  constructor(overlay) {
    this.overlay = overlay;
    this.nodes = [];
    this.drawn = null; // what the nodes were made of
  }

  draw(stage, state, rubber) {
    const { review, selectedBox, showBoxes, minScore, draft } = state;
    const same = [review, selectedBox, showBoxes, minScore, draft, rubber];
    if (!this.drawn || same.some((part, at) => part !== this.drawn[at])) {
      this.#dress(this.#wanted(state, rubber));
      this.drawn = same;
    }
    const taken = [];
    for (const node of this.nodes) node.move(stage, taken);
  }

  // The chosen box comes first, so that its label gives way to none, then the surest.
  #wanted(state, rubber) {
    const wanted = [];
    if (state.review && state.showBoxes) {
      boxesOf(state.review).forEach((box, at) => {
        const chosen = at === state.selectedBox;
        if (!isShown(state, box) && !chosen) return;
        const edited = chosen && state.draft;
        const classes = [`is-${box.verdict?.verdict ?? "open"}`, chosen ? "selected" : "", edited ? "draft" : ""];
        wanted.push({
          box: edited ? state.draft : box.box,
          caption: captionOf(box),
          classes: classes.join(" ").trim(),
          style: styleOf(box.label),
          rank: chosen ? 2 : (box.score ?? 1),
        });
      });
    }
    wanted.sort((one, other) => other.rank - one.rank);
    if (state.review?.crop && state.showBoxes) {
      // What is shown in full quality; it is no object, and takes no label's room.
      wanted.unshift({ box: state.review.crop, caption: "", classes: "crop", style: { colour: "", dash: "2 6" } });
    }
    if (rubber) wanted.push({ box: rubber, caption: "", classes: "rubber", style: styleOf("") });
    return wanted;
  }

  #dress(wanted) {
    while (this.nodes.length > wanted.length) this.nodes.pop().group.remove();
    while (this.nodes.length < wanted.length) this.nodes.push(new BoxNode(this.overlay));
    wanted.forEach((one, at) => this.nodes[at].dress(one));
  }
}

// Where among the boxes the smallest one under a stage position is, or null.
export function boxAt(stage, state, stageX, stageY) {
  const [x, y] = stage.toFrame(stageX, stageY);
  let found = null;
  let smallest = Infinity;
  boxesOf(state.review).forEach((one, at) => {
    const [x0, y0, x1, y1] = one.box;
    const area = (x1 - x0) * (y1 - y0);
    if (isShown(state, one) && x >= x0 && x <= x1 && y >= y0 && y <= y1 && area < smallest) {
      found = at;
      smallest = area;
    }
  });
  return found;
}

const stagePoint = (stage, event) => {
  const bounds = stage.element.getBoundingClientRect();
  return [event.clientX - bounds.left, event.clientY - bounds.top];
};

// Drag a rectangle while `active()`. `onChange(box|null)` follows the drag, `onDone(box)` ends it.
export function attachDrawing(stage, active, onChange, onDone) {
  const element = stage.element;
  let start = null;
  const framePoint = (event) => stage.toFrame(...stagePoint(stage, event));
  const boxTo = ([x, y]) => [
    Math.min(start[0], x),
    Math.min(start[1], y),
    Math.max(start[0], x),
    Math.max(start[1], y),
  ];
  element.addEventListener("pointerdown", (event) => {
    if (!active() || event.button !== 0) return;
    start = framePoint(event);
    element.setPointerCapture(event.pointerId);
  });
  element.addEventListener("pointermove", (event) => {
    if (start) onChange(boxTo(framePoint(event)));
  });
  element.addEventListener("pointerup", (event) => {
    if (!start) return;
    const box = boxTo(framePoint(event));
    start = null;
    onChange(null);
    if (active() && box[2] - box[0] >= MIN_SIDE && box[3] - box[1] >= MIN_SIDE) onDone(box);
  });
  element.addEventListener("pointercancel", () => {
    start = null;
    onChange(null);
  });
}

// Which sides of a box are under a stage position: [] inside it, null outside.
export function sidesAt(stage, box, [x, y]) {
  const [x0, y0] = stage.toStage(box[0], box[1]);
  const [x1, y1] = stage.toStage(box[2], box[3]);
  if (x < x0 - GRIP || x > x1 + GRIP || y < y0 - GRIP || y > y1 + GRIP) return null;
  // A small box is taken by its outside, so that its inside still moves it.
  const inner = Math.min(GRIP, (x1 - x0) / 4, (y1 - y0) / 4);
  const sides = [];
  if (x <= x0 + inner) sides.push("x0");
  else if (x >= x1 - inner) sides.push("x1");
  if (y <= y0 + inner) sides.push("y0");
  else if (y >= y1 - inner) sides.push("y1");
  return sides;
}

const cursorOf = (sides) => {
  if (!sides) return "";
  if (!sides.length) return "move";
  if (sides.length === 1) return sides[0][0] === "x" ? "ew-resize" : "ns-resize";
  return sides[0][1] === sides[1][1] ? "nwse-resize" : "nesw-resize";
};

// Drag the chosen box, or its sides. `chosen()` -> { box, frame, others } or null; `onChange(box)` follows the drag.
// -> `editing()`: whether a drag is on, so that it does not pan.
export function attachEditing(stage, chosen, onChange) {
  const element = stage.element;
  let drag = null;
  element.addEventListener(
    "pointerdown",
    (event) => {
      const given = event.button === 0 && !event.target.closest(".divider, button") ? chosen() : null;
      const from = stagePoint(stage, event);
      const sides = given && sidesAt(stage, given.box, from);
      if (!sides) return;
      drag = { ...given, sides, from };
      element.setPointerCapture(event.pointerId);
    },
    { capture: true },
  );
  element.addEventListener("pointermove", (event) => {
    const now = stagePoint(stage, event);
    if (!drag) {
      const given = event.pointerType === "touch" ? null : chosen();
      element.style.cursor = given ? cursorOf(sidesAt(stage, given.box, now)) : "";
      return;
    }
    const dx = (now[0] - drag.from[0]) / stage.scale;
    const dy = (now[1] - drag.from[1]) / stage.scale;
    if (!drag.moved && Math.hypot(dx, dy) * stage.scale < 3) return;
    drag.moved = true;
    if (!drag.sides.length) onChange(movedBox(drag.box, dx, dy, drag.frame));
    else {
      const box = resizedBox(drag.box, drag.sides, dx, dy, drag.frame);
      onChange(event.altKey ? box : snapped(box, drag.sides, drag.others, SNAP / stage.scale));
    }
  });
  const stop = () => (drag = null);
  element.addEventListener("pointerup", () => setTimeout(stop)); // after the click has been understood
  element.addEventListener("pointercancel", stop);
  return () => drag !== null;
}
