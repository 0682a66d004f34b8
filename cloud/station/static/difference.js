// Where two pictures differ, and by how much: grey is alike, the brighter the more they differ, four times as strong.

const STRENGTH = 4;
const made = new WeakMap(); // picture -> { other, bitmap }

export function differenceOf(picture, other) {
  const known = made.get(picture);
  if (known?.other === other) return known.bitmap;
  const canvas = new OffscreenCanvas(picture.width, picture.height);
  const context = canvas.getContext("2d");
  context.drawImage(picture, 0, 0);
  context.globalCompositeOperation = "difference";
  context.drawImage(other, 0, 0, picture.width, picture.height);
  // Adding what is there to itself makes it stronger.
  context.globalCompositeOperation = "lighter";
  for (let strength = 1; strength < STRENGTH; strength *= 2) context.drawImage(canvas, 0, 0);
  const bitmap = canvas.transferToImageBitmap();
  made.set(picture, { other, bitmap });
  return bitmap;
}
