// The wardrobe that the service keeps: /items.

import { change, download, read, send, show } from "./service.js";

const MAX_AT_ONCE = 1000; // the service's limit for one PATCH or POST /items/delete

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
      if (some.length === 1) {
        const { id, revision } = some[0];
        await collect(outcome, async () => [
          { id, item: await change(`items/${id}`, "PATCH", what, { "If-Match": `"${revision}"` }) },
        ]);
      } else {
        const entries = some.map(({ id, revision }) => ({ id, revision }));
        await collect(outcome, async () => (await change("items", "PATCH", { items: entries, change: what })).items);
      }
    }
    return outcome;
  }

  /** As `change`; `items` are those that are gone. */
  async remove(items) {
    const outcome = { items: [], problems: [] };
    for (const some of slices(items)) {
      const entries = some.map(({ id, revision }) => ({ id, revision }));
      await collect(outcome, async () => {
        const answer = await change("items/delete", "POST", { items: entries });
        return answer.items.map((entry) => ({ ...entry, item: some.find(({ id }) => id === entry.id) }));
      });
    }
    return outcome;
  }

  showThumbnail(image, item) {
    return show(image, item.urls.thumbnail);
  }

  /** As sent it may be of a format that browsers cannot show, so a large thumbnail stands for it. */
  showPicture(image, item) {
    return show(image, `${item.urls.thumbnail}?size=960`);
  }

  /** Raises a Problem where the model has no heat map. */
  async heatMap(item, label) {
    if (!item.urls.explanation) throw new Error("This service makes no heat maps.");
    const response = await send(`${item.urls.explanation}?${parameters({ label })}`);
    return URL.createObjectURL(await response.blob());
  }

  async file(item) {
    return (await send(item.urls.picture)).blob();
  }

  export(format, query) {
    return download(`items/export.${format}?${parameters(query)}`, `wardrobe.${format}`);
  }

  async import(file, options) {
    const headers = { "Content-Type": "application/zip" };
    const response = await send("items/import", { method: "POST", body: file, headers, ...options });
    return response.json();
  }
}

function parameters(query) {
  const pairs = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return new URLSearchParams(pairs);
}

function* slices(items) {
  for (let start = 0; start < items.length; start += MAX_AT_ONCE) yield items.slice(start, start + MAX_AT_ONCE);
}

/** Entries have an item or an error; if none was changed, the whole answer is a problem that may list them all. */
async function collect(outcome, ask) {
  let entries;
  try {
    entries = await ask();
  } catch (problem) {
    if (!problem.document) throw problem;
    entries = (problem.document.errors ?? [{ error: problem.document }]).map((entry) => ({
      error: entry.error ?? entry,
    }));
  }
  for (const entry of entries) {
    if (entry.error) outcome.problems.push(entry.error);
    else outcome.items.push(entry.item);
  }
}
