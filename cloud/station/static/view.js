// The stage: one or two pictures on a canvas under one transform (fit, zoom, pan).
// It knows frame pixels and stage pixels (CSS), nothing of reviews.

const MAX_SCALE = 24;
const PIXELS_VISIBLE_SCALE = 3; // from here on, show the codec's own pixels instead of smoothing them

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

export class Stage {
  constructor(element, canvas, onTransform) {
    this.element = element;
    this.canvas = canvas;
    this.onTransform = onTransform;
    this.frame = { width: 1, height: 1 };
    this.picture = null; // bitmap
    this.left = null; // bitmap drawn left of the divider, or null
    this.split = 0.5; // divider, as a fraction of the stage's width
    this.scale = 1;
    this.x = 0; // stage position of the frame's top left corner
    this.y = 0;
    this.fitted = true;
    this.size = { width: 0, height: 0 };
    this.queued = false;
    new ResizeObserver(() => this.#resize()).observe(element);
  }

  setFrame(width, height) {
    this.frame = { width, height };
    this.fit();
  }

  show(picture, left = null) {
    this.picture = picture;
    this.left = left;
    this.redraw();
  }

  setSplit(split) {
    this.split = clamp(split, 0, 1);
    this.redraw();
  }

  fit() {
    const { clientWidth, clientHeight } = this.element;
    this.scale = Math.min(clientWidth / this.frame.width, clientHeight / this.frame.height) || 1;
    this.x = (clientWidth - this.frame.width * this.scale) / 2;
    this.y = (clientHeight - this.frame.height * this.scale) / 2;
    this.fitted = true;
    this.redraw();
  }

  zoomAt(stageX, stageY, factor) {
    const scale = clamp(this.scale * factor, this.#fitScale() / 2, MAX_SCALE);
    const ratio = scale / this.scale;
    this.x = stageX - (stageX - this.x) * ratio;
    this.y = stageY - (stageY - this.y) * ratio;
    this.scale = scale;
    this.fitted = false;
    this.#keepInSight();
    this.redraw();
  }

  zoomCentre(factor) {
    this.zoomAt(this.element.clientWidth / 2, this.element.clientHeight / 2, factor);
  }

  panBy(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.fitted = false;
    this.#keepInSight();
    this.redraw();
  }

  // Box in frame pixels; it fills about half of the stage, so that its surroundings stay visible.
  zoomTo([x0, y0, x1, y1]) {
    const { clientWidth, clientHeight } = this.element;
    const wanted = 0.55 * Math.min(clientWidth / Math.max(x1 - x0, 1), clientHeight / Math.max(y1 - y0, 1));
    this.scale = clamp(wanted, this.#fitScale(), MAX_SCALE);
    this.x = clientWidth / 2 - ((x0 + x1) / 2) * this.scale;
    this.y = clientHeight / 2 - ((y0 + y1) / 2) * this.scale;
    this.fitted = false;
    this.#keepInSight();
    this.redraw();
  }

  toStage(x, y) {
    return [this.x + x * this.scale, this.y + y * this.scale];
  }

  // Clamped to the frame.
  toFrame(stageX, stageY) {
    return [
      clamp((stageX - this.x) / this.scale, 0, this.frame.width),
      clamp((stageY - this.y) / this.scale, 0, this.frame.height),
    ];
  }

  redraw() {
    if (this.queued) return;
    this.queued = true;
    requestAnimationFrame(() => {
      this.queued = false;
      this.#draw();
      this.onTransform(this);
    });
  }

  #fitScale() {
    const { clientWidth, clientHeight } = this.element;
    return Math.min(clientWidth / this.frame.width, clientHeight / this.frame.height) || 1;
  }

  #keepInSight() {
    const margin = 60;
    const { clientWidth, clientHeight } = this.element;
    this.x = clamp(this.x, margin - this.frame.width * this.scale, clientWidth - margin);
    this.y = clamp(this.y, margin - this.frame.height * this.scale, clientHeight - margin);
  }

  #resize() {
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(this.element.clientWidth * ratio);
    this.canvas.height = Math.round(this.element.clientHeight * ratio);
    if (this.fitted) this.fit();
    else this.#keepCentre();
    this.size = { width: this.element.clientWidth, height: this.element.clientHeight };
  }

  // What was in the middle stays there when a phone is turned, or a panel opens.
  #keepCentre() {
    const { clientWidth, clientHeight } = this.element;
    this.x += (clientWidth - this.size.width) / 2;
    this.y += (clientHeight - this.size.height) / 2;
    this.#keepInSight();
    this.redraw();
  }

  #draw() {
    const context = this.canvas.getContext("2d");
    const ratio = window.devicePixelRatio || 1;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    if (!this.picture) return;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.imageSmoothingEnabled = this.scale < PIXELS_VISIBLE_SCALE;
    context.imageSmoothingQuality = "high";
    this.#paint(context, this.picture);
    if (!this.left) return;
    context.save();
    context.beginPath();
    context.rect(0, 0, this.element.clientWidth * this.split, this.element.clientHeight);
    context.clip();
    this.#paint(context, this.left);
    context.restore();
  }

  #paint(context, bitmap) {
    const { width, height } = this.frame;
    context.drawImage(bitmap, this.x, this.y, width * this.scale, height * this.scale);
  }
}

// Wheel and two fingers zoom, dragging pans; `suspended()` says when another tool owns the pointer.
export function attachPointer(stage, suspended) {
  const element = stage.element;
  element.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      const bounds = element.getBoundingClientRect();
      const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : 1;
      const factor = Math.exp(-clamp(event.deltaY * lines, -240, 240) * 0.0022);
      stage.zoomAt(event.clientX - bounds.left, event.clientY - bounds.top, factor);
    },
    { passive: false },
  );

  const pointers = new Map(); // id -> [x, y]; two of them pinch
  element.addEventListener("pointerdown", (event) => {
    if (event.button > 1 || event.target.closest(".divider, button") || (suspended() && event.pointerType !== "touch")) return;
    pointers.set(event.pointerId, [event.clientX, event.clientY]);
    if (!suspended()) element.setPointerCapture(event.pointerId);
    element.classList.add("panning");
  });
  element.addEventListener("pointermove", (event) => {
    const last = pointers.get(event.pointerId);
    if (!last) return;
    const now = [event.clientX, event.clientY];
    pointers.set(event.pointerId, now);
    if (pointers.size === 1) {
      if (!suspended()) stage.panBy(now[0] - last[0], now[1] - last[1]);
      return;
    }
    const other = [...pointers].find(([id]) => id !== event.pointerId)[1];
    const bounds = element.getBoundingClientRect();
    const apart = (point) => Math.max(Math.hypot(point[0] - other[0], point[1] - other[1]), 1);
    const middle = [(now[0] + other[0]) / 2 - bounds.left, (now[1] + other[1]) / 2 - bounds.top];
    stage.zoomAt(...middle, apart(now) / apart(last));
    stage.panBy((now[0] - last[0]) / 2, (now[1] - last[1]) / 2);
  });
  const stop = (event) => {
    pointers.delete(event.pointerId);
    if (!pointers.size) element.classList.remove("panning");
  };
  element.addEventListener("pointerup", stop);
  element.addEventListener("pointercancel", stop);
}
