// The wardrobe that the service keeps: /items.

import { change, download, forget, read, send, show } from "./service.js";

const MAX_AT_ONCE = 1000; // the service's limit for one PATCH or POST /items/delete
const MAX_TWINS = 12; // pairs asked about at a time: chosen, a page full

export class KeptWardrobe {
  isKept = true;

  /** `query`: drawer, label, corrected, q, sort, limit, cursor; empty ones are left out. */
  list(query) {
    return read(`items?${parameters(query)}`);
  }

  get(id) {
    return read(`items/${id}`);
  }

  /** Send one picture as it is: shrinking it here would change what the model says. */
  async add(file, options) {
    const body = new FormData();
    body.append("file", file, file.name);
    const response = await send("items", { method: "POST", body, numBytes: file.size, ...options });
    const { item, duplicate } = (await response.json()).items[0];
    return { item, duplicate, timing: response.headers.get("Server-Timing") };
  }

  /** Answers with the items as they are now and the problems, one for each item that was not changed. */
  async change(items, what) {
    const outcome = { items: [], problems: [] };
    for (const some of slices(items)) {
      const answer = await change("items", "PATCH", { items: some.map(asSeen), change: what });
      for (const { item, error } of answer.items) {
        if (error) outcome.problems.push(error);
        else outcome.items.push(item);
      }
    }
    return outcome;
  }

  /** As `change`; `items` are those that are gone. */
  async remove(items) {
    const outcome = { items: [], problems: [] };
    for (const some of slices(items)) {
      const answer = await change("items/delete", "POST", { items: some.map(asSeen) });
      answer.items.forEach(({ error }, index) => {
        if (error) outcome.problems.push(error);
        else outcome.items.push(some[index]);
      });
    }
    for (const item of outcome.items) forget(item.urls.thumbnail);
    return outcome;
  }

  /** Items that may show a garment twice, each with the one that it looks like. */
  async twins() {
    const { items } = await this.list({ possible_duplicate: true, limit: MAX_TWINS });
    const pairs = items.map(async (item) => [item, await this.get(item.possible_duplicate_of)]);
    const found = await Promise.allSettled(pairs); // one of two may be gone by now
    return found.filter(({ status }) => status === "fulfilled").map(({ value }) => value);
  }

  async keepBoth(item) {
    return (await send(`items/${item.id}/possible-duplicate`, { method: "DELETE" })).json();
  }

  /** The items most like one, as {items: [{item, similarity}], num_waiting}; null where the model cannot tell. */
  async similar(item, limit) {
    try {
      return await read(`${item.urls.similar}?${parameters({ limit })}`);
    } catch (problem) {
      if (problem.kind === "no-embedding") return null;
      throw problem;
    }
  }

  showThumbnail(image, item) {
    return show(image, item.urls.thumbnail);
  }

  /** As sent it may be of a format that browsers cannot show, so a large thumbnail stands for it. */
  showPicture(image, item) {
    return show(image, `${item.urls.thumbnail}?size=960`);
  }

  /** The picture as the network gets it. */
  async inputPicture(item) {
    return URL.createObjectURL(await (await send(item.urls.input)).blob());
  }

  /** Raises a Problem where the model has no heat map. */
  async heatMap(item, label) {
    const response = await send(`${item.urls.explanation}?${parameters({ label })}`);
    return URL.createObjectURL(await response.blob());
  }

  async file(item) {
    return (await send(item.urls.picture)).blob();
  }

  export(format) {
    return download(`items/export.${format}`, `wardrobe.${format}`);
  }

  async import(file) {
    const headers = { "Content-Type": "application/zip" };
    return (await send("items/import", { method: "POST", body: file, headers })).json();
  }
}

function parameters(query) {
  const pairs = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return new URLSearchParams(pairs);
}

/** The service refuses to change what was changed since. */
function asSeen({ id, revision }) {
  return { id, revision };
}

function* slices(items) {
  for (let start = 0; start < items.length; start += MAX_AT_ONCE) yield items.slice(start, start + MAX_AT_ONCE);
}
