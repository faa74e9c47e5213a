// A wardrobe of this page alone, where the service keeps nothing: sorted by /predict, gone when the page is closed.
// Items look as those of the service do (see kept.js), so that the rest of the page need not know.

import { Problem, send } from "./service.js";

const NUM_CLASSES = 100; // as many as /predict names: all of them

export class PassingWardrobe {
  isKept = false;
  #items = new Map();
  #files = new Map(); // id -> {file, address}

  async list({ drawer, label, corrected, q = "", sort = "-added", limit = 100, cursor }) {
    const words = q.toLowerCase().split(/\s+/).filter(Boolean);
    const all = [...this.#items.values()];
    const found = all.filter((item) => {
      const text = `${item.filename} ${item.label ?? ""} ${item.drawer}`.toLowerCase();
      return (
        (!drawer || item.drawer === drawer) &&
        (!label || item.label === label) &&
        (!corrected || String(item.corrected) === corrected) &&
        words.every((word) => text.includes(word))
      );
    });
    const by = {
      added: (item) => item.added_at,
      changed: (item) => item.changed_at,
      label: (item) => item.label ?? "",
      filename: (item) => item.filename,
      probability: (item) => item.prediction.probability,
    }[sort.replace("-", "")];
    const sign = sort.startsWith("-") ? -1 : 1;
    found.sort((a, b) => sign * (by(a) < by(b) ? -1 : by(a) > by(b) ? 1 : a.number - b.number));
    const start = Number(cursor ?? 0);
    const drawers = {};
    for (const item of all) drawers[item.drawer] = (drawers[item.drawer] ?? 0) + 1;
    return {
      items: found.slice(start, start + limit),
      next: start + limit < found.length ? String(start + limit) : null,
      total: found.length,
      drawers,
    };
  }

  async get(id) {
    return this.#items.get(id);
  }

  async add(file, options) {
    const body = new FormData();
    body.append("file", file, file.name);
    const response = await send(`predict?top_k=${NUM_CLASSES}`, {
      method: "POST",
      body,
      numBytes: file.size,
      ...options,
    });
    const { filename, ...prediction } = (await response.json()).predictions[0];
    const now = new Date().toISOString();
    const number = this.#items.size + 1;
    const item = sortedBy([], {
      id: `picture-${number}`,
      number,
      revision: 1,
      filename,
      added_at: now,
      changed_at: now,
      num_bytes: file.size,
      prediction,
    });
    this.#items.set(item.id, item);
    this.#files.set(item.id, { file, address: URL.createObjectURL(file) });
    return { item, duplicate: false, timing: response.headers.get("Server-Timing") };
  }

  async change(items, what) {
    const changed = items.map(({ id }) => {
      const item = this.#items.get(id);
      const now = new Date().toISOString();
      const corrections = [...item.corrections];
      if (what.undo) {
        const last = corrections.findLastIndex((correction) => correction.taken_back_at === null);
        corrections[last] = { ...corrections[last], taken_back_at: now };
      } else {
        const known = item.prediction.top_k.find(({ label }) => label === what.label);
        const drawer = what.drawer ?? known?.group;
        corrections.push({ label: what.label ?? null, drawer, made_at: now, taken_back_at: null });
      }
      const next = sortedBy(corrections, { ...item, revision: item.revision + 1, changed_at: now });
      this.#items.set(id, next);
      return next;
    });
    return { items: changed, problems: [] };
  }

  async remove(items) {
    for (const { id } of items) {
      URL.revokeObjectURL(this.#files.get(id).address);
      this.#items.delete(id);
      this.#files.delete(id);
    }
    return { items, problems: [] };
  }

  /** Nothing is compared: what is not kept needs no clearing up. */
  async twins() {
    return [];
  }

  async similar() {
    return null;
  }

  showThumbnail(image, item) {
    image.src = this.#files.get(item.id).address;
  }

  showPicture(image, item) {
    image.src = this.#files.get(item.id).address;
  }

  async inputPicture(item) {
    return asAddress((await this.#explain(item, item.prediction.label)).input_png_base64);
  }

  async heatMap(item, label) {
    const { png_base64, reason } = await this.#explain(item, label);
    if (!png_base64) throw new Problem({ type: "urn:wardrobe:no-heat-map", status: 404, detail: reason });
    return asAddress(png_base64);
  }

  /** /predict tells it for one label at a time. */
  async #explain(item, label) {
    const body = new FormData();
    body.append("file", this.#files.get(item.id).file);
    const query = new URLSearchParams({ model: item.prediction.model.name, explain: "true", explain_label: label });
    const response = await send(`predict?${query}`, { method: "POST", body });
    return (await response.json()).predictions[0].explanation;
  }

  async file(item) {
    return this.#files.get(item.id).file;
  }
}

function asAddress(base64) {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  return URL.createObjectURL(new Blob([bytes], { type: "image/png" }));
}

/** The item as its last correction in force says, else as the model says. */
function sortedBy(corrections, item) {
  const { label, group, decision, top_k } = item.prediction;
  const inForce = corrections.findLast((correction) => correction.taken_back_at === null);
  const rest = { ...item, corrections, corrected: inForce !== undefined };
  if (!inForce) return { ...rest, label, drawer: decision === "sorted" ? group : decision };
  const likely = ["review", "not_a_garment"].includes(inForce.drawer)
    ? label
    : (top_k.find((candidate) => candidate.group === inForce.drawer)?.label ?? null);
  return { ...rest, label: inForce.label ?? likely, drawer: inForce.drawer };
}
