// Decoded pictures, ready to be drawn: switching to a prefetched frame costs no request and no decode.

import { getImage } from "./api.js";

export const VERSIONS = ["base", "enhanced", "refined"];
const RETRY_MS = 5000; // a picture that failed is not asked for again before

export class ImageCache {
  // `shown(bitmap)`: whether a picture is on the screen.
  constructor(shown, limit = 24) {
    this.shown = shown;
    this.limit = limit;
    this.took = null;
    this.entries = new Map(); // "id/version" -> { promise, picture|null, stamp }; oldest use first
  }

  // `stamp` changes when the server has written the picture anew; an older copy is then dropped.
  load(id, version, stamp) {
    const key = `${id}/${version}`;
    const known = this.entries.get(key);
    if (known && known.stamp === stamp) {
      this.entries.delete(key);
      this.entries.set(key, known);
      return known.promise;
    }
    if (known) this.#drop(key);
    const entry = { picture: null, error: null, stamp, promise: null };
    entry.promise = this.#fetch(id, version).then(
      (picture) => {
        if (this.entries.get(key) === entry) entry.picture = picture;
        return picture;
      },
      (error) => {
        entry.error = error.message;
        setTimeout(() => this.entries.get(key) === entry && this.entries.delete(key), RETRY_MS);
        throw error;
      },
    );
    this.entries.set(key, entry);
    this.#evict();
    return entry.promise;
  }

  // The picture if it is here already, else null.
  peek(id, version) {
    return this.entries.get(`${id}/${version}`)?.picture ?? null;
  }

  errorOf(id, version) {
    return this.entries.get(`${id}/${version}`)?.error ?? null;
  }

  // How long a picture takes on this line, in milliseconds, as the last ones did; null before the first one.
  get pace() {
    return this.took;
  }

  async #fetch(id, version) {
    const start = performance.now();
    const { blob, sha256 } = await getImage(id, version);
    const took = performance.now() - start;
    this.took = this.took === null ? took : 0.6 * this.took + 0.4 * took;
    return { version, sha256, bitmap: await createImageBitmap(blob) };
  }

  // The garbage collector does not see how large a bitmap is: one that nobody looks at is closed.
  #drop(key) {
    const bitmap = this.entries.get(key).picture?.bitmap;
    this.entries.delete(key);
    if (bitmap && !this.shown(bitmap)) bitmap.close();
  }

  #evict() {
    for (const key of this.entries.keys()) {
      if (this.entries.size <= this.limit) return;
      this.#drop(key);
    }
  }
}
