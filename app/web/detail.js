// One picture: what it is, how sure the model is, what it saw, and all that was said about it.

import { bar, count, drawerTitle, element, icon, megabytes, percent } from "./elements.js";
import { certainty, likelyLabels, nameOf } from "./naming.js";
import { send } from "./service.js";
import { Stage } from "./stage.js";

const NUM_SIMILAR = 6; // two rows of three
const MIN_SIMILARITY = 0.5; // benchmarks/similar.py: of such pairs in one wardrobe 60 % have one label; from 0.3 on, 31 %
const STAGES = {
  wait: "Waiting for its turn",
  decode: "Reading the file",
  preprocess: "Making it small",
  queue: "Waiting for the network",
  infer: "Looking at it",
  total: "All together",
};

const timings = new Map(); // item id -> Server-Timing of the request that classified it

export function rememberTiming(item, header) {
  if (header) timings.set(item.id, header);
}

/**
 * The dialog for one item. `actions` are the page's: change(item, what), move(item), remove(item), step(-1 | 1),
 * open(item), closed().
 */
export class Detail {
  #content = element("div", { class: "content" });
  #dialog = element("dialog", { class: "detail", "aria-labelledby": "detail-title" }, this.#content);
  #item = null;
  #stage;

  constructor(wardrobe, actions) {
    this.wardrobe = wardrobe;
    this.#stage = new Stage(wardrobe);
    this.actions = actions;
    this.#dialog.addEventListener("close", () => {
      this.#item = null;
      actions.closed();
    });
    this.#dialog.addEventListener("click", (event) => event.target === this.#dialog && this.#dialog.close());
    this.#dialog.addEventListener("keydown", (event) => {
      if (event.target.matches("input, select, textarea")) return;
      if (event.key === "ArrowLeft") actions.step(-1);
      if (event.key === "ArrowRight") actions.step(1);
    });
    document.body.append(this.#dialog);
  }

  get itemId() {
    return this.#item?.id ?? null;
  }

  /** Drawn anew only when there is something new about it: pictures that arrive meanwhile change nothing here. */
  show(item, { hasPrevious, hasNext }) {
    const isOther = this.#item?.id !== item.id;
    const isSame = !isOther && this.#item.revision === item.revision;
    this.#item = item;
    const focused = this.#dialog.contains(document.activeElement) ? document.activeElement.dataset.action : null;
    if (!isSame) this.#content.replaceChildren(this.#header(item), this.#stage.of(item), this.#facts(item));
    this.#dialog.querySelector('[data-action="Previous"]').disabled = !hasPrevious;
    this.#dialog.querySelector('[data-action="Next"]').disabled = !hasNext;
    if (isSame) return;
    if (!this.#dialog.open) this.#dialog.showModal();
    const again = focused && this.#dialog.querySelector(`[data-action="${focused}"]:not(:disabled)`);
    (again || this.#dialog.querySelector('[data-action="close"]')).focus({ preventScroll: true });
    if (isOther) this.#content.scrollTop = 0;
  }

  /** Free what was kept of an item that is gone. */
  forget(item) {
    this.#stage.forget(item);
    timings.delete(item.id);
  }

  /** Take a node in while open: what lies outside of a modal dialog cannot be used. */
  host(node) {
    if (this.#dialog.open) this.#dialog.append(node);
  }

  close() {
    if (this.#dialog.open) this.#dialog.close();
  }

  #header(item) {
    const step = (by, name) =>
      element(
        "button",
        {
          class: "quiet",
          "aria-label": `${name} picture`,
          "data-action": name,
          onclick: () => this.actions.step(by),
        },
        icon(name.toLowerCase()),
      );
    return element(
      "header",
      {},
      element(
        "div",
        {},
        element("h2", { id: "detail-title" }, nameOf(item)),
        element("p", { class: "hint" }, `${drawerTitle(item.drawer)} · ${certainty(item)}`),
      ),
      step(-1, "Previous"),
      step(1, "Next"),
      element(
        "button",
        { class: "quiet", "aria-label": "Close", "data-action": "close", onclick: () => this.close() },
        icon("close"),
      ),
    );
  }

  #facts(item) {
    const { prediction } = item;
    const { name, version } = prediction.model;
    return element(
      "div",
      { class: "facts" },
      this.#correct(item),
      element(
        "section",
        {},
        element("h3", {}, "What the model thinks"),
        element("p", { class: "hint" }, prediction.reason),
        bars(prediction),
      ),
      this.#similar(item),
      element(
        "section",
        {},
        element("h3", {}, "How it came about"),
        element(
          "dl",
          {},
          pair("Model", element("a", { href: `web/models.html#${name}` }, `${name}, version ${version}`)),
          prediction.garment_score !== null && pair("Is it clothes?", percent(prediction.garment_score)),
          pair("File", item.filename ?? "without a name"),
          pair(
            "Picture",
            [
              `${prediction.image.format}, ${prediction.image.width} × ${prediction.image.height}`,
              megabytes(item.num_bytes),
              ...prediction.image.notes,
            ].join(", "),
          ),
          pair("Added", when(item.added_at)),
        ),
        this.#times(item),
        history(item),
      ),
      element(
        "div",
        { class: "actions" },
        element(
          "button",
          { class: "quiet danger-text", "data-action": "delete", onclick: () => this.actions.remove(item) },
          icon("trash"),
          "Delete",
        ),
      ),
    );
  }

  #correct(item) {
    const labels = likelyLabels(item.prediction);
    const isOpen = item.drawer === "review" || item.drawer === "not_a_garment";
    return element(
      "section",
      { class: "correct" },
      element("h3", {}, isOpen ? "What is it?" : "Is that right?"),
      element(
        "div",
        { class: "choices" },
        labels.map((label) => {
          const isNow = label === item.label && !isOpen;
          return element(
            "button",
            {
              class: "choice",
              "aria-pressed": String(isNow),
              "data-action": `label-${label}`,
              onclick: () => this.actions.change(item, { label }),
            },
            isNow && icon("check"),
            label,
          );
        }),
        element(
          "button",
          { class: "choice", "data-action": "move", onclick: () => this.actions.move(item) },
          icon("move"),
          "Something else …",
        ),
        item.corrected &&
          element(
            "button",
            { class: "quiet", "data-action": "undo", onclick: () => this.actions.change(item, { undo: true }) },
            icon("undo"),
            "Take back",
          ),
      ),
    );
  }

  /** The items most like it; nothing where there are none or that cannot be said. */
  #similar(item) {
    const list = element("ul", { class: "alike" });
    const hint = element("p", { class: "hint" });
    const section = element("section", { hidden: true }, element("h3", {}, "More like this"), list, hint);
    const tile = (other) => {
      const image = element("img", { alt: "", decoding: "async" });
      image.addEventListener("error", () => image.replaceWith(icon("pictures")));
      this.wardrobe.showThumbnail(image, other);
      const name = `${nameOf(other)}${other.filename ? `, ${other.filename}` : ""}`;
      const open = { class: "picture", "aria-label": name, onclick: () => this.actions.open(other) };
      const tiny = other.prediction.image.width <= 64 ? "photo tiny" : "photo";
      return element("li", {}, element("div", { class: tiny }, element("button", open, image)));
    };
    this.wardrobe.similar(item, NUM_SIMILAR).then(
      (found) => {
        const alike = found?.items.filter(({ similarity }) => similarity >= MIN_SIMILARITY) ?? [];
        if (alike.length === 0) return;
        list.replaceChildren(...alike.map((each) => tile(each.item)));
        if (found.num_waiting) hint.textContent = `${count(found.num_waiting, "picture")} still to be compared.`;
        section.hidden = false;
      },
      () => null, // the rest of this view does not depend on it
    );
    return section;
  }

  /** Milliseconds of each stage; what was classified before this page was opened can be measured again. */
  #times(item) {
    const box = element("div", { class: "times" });
    const paint = (header) => {
      const stages = [...header.matchAll(/(\w+);dur=([\d.]+)/g)].filter(([, stage]) => stage in STAGES);
      box.replaceChildren(
        element(
          "dl",
          {},
          stages.map(([, stage, milliseconds]) => pair(STAGES[stage], `${Number(milliseconds).toFixed(1)} ms`)),
        ),
      );
    };
    const measure = async (event) => {
      event.target.disabled = true;
      try {
        const body = new FormData();
        body.append("file", await this.wardrobe.file(item));
        const query = new URLSearchParams({ model: item.prediction.model.name });
        const response = await send(`predict?${query}`, { method: "POST", body });
        rememberTiming(item, response.headers.get("Server-Timing"));
        paint(timings.get(item.id));
      } catch (problem) {
        box.replaceChildren(element("p", { class: "hint" }, problem.message));
      }
    };
    if (timings.has(item.id)) paint(timings.get(item.id));
    else {
      box.append(
        element("button", { class: "quiet", "data-action": "measure", onclick: measure }, "How long does it take?"),
      );
    }
    return box;
  }
}

function bars(prediction) {
  const rows = prediction.top_k.map(({ label, probability }) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, label),
      element("td", {}, bar(probability)),
      element("td", { class: "number" }, percent(probability)),
    ),
  );
  return element(
    "table",
    { class: "bars" },
    element("caption", { class: "unseen" }, "Probability of each label"),
    element("tbody", {}, rows),
  );
}

function history(item) {
  if (item.corrections.length === 0) return null;
  const entries = item.corrections.map(({ label, drawer, made_at, taken_back_at }) => {
    const what = label ? `${label}, ${drawerTitle(drawer)}` : drawerTitle(drawer);
    return element("li", {}, `${when(made_at)}: ${what}${taken_back_at ? " (taken back)" : ""}`);
  });
  return [element("h3", {}, "What you said"), element("ol", { class: "history" }, entries)];
}

function pair(name, value) {
  return element("div", {}, element("dt", {}, name), element("dd", {}, value));
}

function when(time) {
  return new Date(time).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}
