// One picture: what it is, how sure the model is, what it saw, and all that was said about it.

import { bar, drawerTitle, element, icon, megabytes, percent } from "./elements.js";
import { read, send } from "./service.js";

const NUM_CHOICES = 3; // likely labels as buttons; the others are one tap further
const STAGES = {
  wait: "Waiting for its turn",
  decode: "Reading the file",
  preprocess: "Making it small",
  queue: "Waiting for the network",
  infer: "Looking at it",
  total: "All together",
};

const cards = new Map(); // "name/version" -> card, asked for once
const timings = new Map(); // item id -> Server-Timing of the request that classified it
const heatMaps = new Map(); // item id -> label -> promise of the address of its heat map
const haveHeatMaps = new Map(); // name of a model -> whether it has them, where that is known

export function rememberTiming(item, header) {
  if (header) timings.set(item.id, header);
}

/** The likely labels: those that cannot be ruled out first, then the most probable ones. */
export function likelyLabels(prediction, number = NUM_CHOICES) {
  const labels = [...(prediction.prediction_set ?? []), ...prediction.top_k.map(({ label }) => label)];
  return [...new Set(labels)].slice(0, Math.max(number, prediction.prediction_set?.length ?? 0));
}

/** What it is called; the label of what shows no clothes is an idle guess. */
export function nameOf(item) {
  if (item.drawer === "not_a_garment") return "Not clothes";
  return item.label ?? drawerTitle(item.drawer);
}

/** Who said so, in words. */
export function certainty(item) {
  if (item.corrected) return "sorted by you";
  if (item.drawer === "not_a_garment") return "the model thinks so";
  return `${percent(item.prediction.probability)} sure`;
}

/**
 * The dialog for one item. `actions` are the page's: change(item, what), move(item), remove(item), step(-1 | 1),
 * closed().
 */
export class Detail {
  #content = element("div", { class: "content" });
  #dialog = element("dialog", { class: "detail", "aria-labelledby": "detail-title" }, this.#content);
  #item = null;
  #view = "picture";

  constructor(wardrobe, actions) {
    this.wardrobe = wardrobe;
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
    if (isOther) this.#view = "picture";
    const isSame = !isOther && this.#item.revision === item.revision;
    this.#item = item;
    const focused = this.#dialog.contains(document.activeElement) ? document.activeElement.dataset.action : null;
    if (!isSame) this.#content.replaceChildren(this.#header(item), this.#stage(item), this.#facts(item));
    this.#dialog.querySelector('[data-action="Previous"]').disabled = !hasPrevious;
    this.#dialog.querySelector('[data-action="Next"]').disabled = !hasNext;
    if (isSame) return;
    if (!this.#dialog.open) this.#dialog.showModal();
    const again = focused && this.#dialog.querySelector(`[data-action="${focused}"]:not(:disabled)`);
    (again || this.#dialog.querySelector('[data-action="close"]')).focus({ preventScroll: true });
    if (isOther) this.#content.scrollTop = 0;
  }

  /** Free the heat maps of an item that is gone. */
  forget(item) {
    for (const loading of heatMaps.get(item.id)?.values() ?? []) loading.then(URL.revokeObjectURL, () => null);
    heatMaps.delete(item.id);
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

  /** The picture, and over it what the model made of it. */
  #stage(item) {
    const frame = element("div", { class: "frame" });
    const caption = element("p", { class: "hint", "aria-live": "polite" });
    const views = [
      ["picture", "Picture"],
      ["seen", "What the model saw"],
      ["heat", "Heat map"],
    ];
    const buttons = views.map(([view, title]) =>
      element("button", { "data-action": view, "aria-pressed": "false", onclick: () => paint(view) }, title),
    );
    const paint = async (view) => {
      this.#view = view;
      buttons.forEach((button, index) => button.setAttribute("aria-pressed", String(views[index][0] === view)));
      const box = element("div", { class: "overlay" });
      frame.className = `frame ${view}`;
      if (item.prediction.image.width <= 64) frame.classList.add("tiny");
      frame.replaceChildren(box);
      caption.replaceChildren();
      if (view === "picture") this.#picture(item, box);
      else if (view === "seen") await this.#seen(item, box, caption);
      else await this.#heat(item, box, caption);
    };
    const heatButton = buttons[2];
    heatButton.hidden = true; // until there is one to show
    mayHaveHeatMap(this.wardrobe, item).then((has) => (heatButton.hidden = !has));
    paint(this.#view);
    return element(
      "div",
      { class: "stage" },
      frame,
      element("div", { class: "switch", role: "group", "aria-label": "Show" }, buttons),
      caption,
    );
  }

  #picture(item, box) {
    const image = element("img", { alt: `${nameOf(item)}, ${item.filename ?? "without a file name"}` });
    image.addEventListener("error", () => {
      box.replaceChildren(element("p", { class: "hint" }, "The browser cannot show this picture."));
    });
    this.wardrobe.showPicture(image, item);
    box.append(image);
  }

  /** The picture as the network gets it, where the browser can make the same of it; else in words. */
  async #seen(item, box, caption) {
    let input;
    try {
      ({ input } = await cardOf(item.prediction.model));
    } catch (problem) {
      const isGone = problem.status === 404;
      caption.append(isGone ? "The card of this model cannot be had any more." : problem.message);
      return;
    }
    if (!box.isConnected) return; // another view was chosen meanwhile
    if (input.recipe === "squeezed") {
      box.parentElement.classList.add("squeezed");
      this.#picture(item, box);
      caption.append(input.description);
    } else box.append(element("p", { class: "words" }, `Not the picture as it is. ${input.description}`));
  }

  async #heat(item, box, caption) {
    const { label, top_k } = item.prediction;
    const select = element(
      "select",
      { "aria-label": "Evidence for" },
      top_k.map((candidate) => {
        const words = `${candidate.label}, ${percent(candidate.probability)}`; // each map is as red as another
        return element("option", { value: candidate.label, selected: candidate.label === label }, words);
      }),
    );
    const lay = async () => {
      const chosen = select.value;
      let answer;
      try {
        const address = await heatMap(this.wardrobe, item, chosen);
        answer = { layer: [element("img", { class: "heat", alt: "", src: address })], words: "Red is what spoke most for " };
      } catch (problem) {
        answer = { layer: [], words: `${problem.message} ` };
      }
      if (!box.isConnected || select.value !== chosen) return; // something else was chosen meanwhile
      box.querySelector(".heat")?.remove();
      box.append(...answer.layer);
      caption.replaceChildren(answer.words, select);
    };
    this.#picture(item, box);
    select.addEventListener("change", lay);
    await lay();
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

async function cardOf({ name, version }) {
  const path = `models/${encodeURIComponent(name)}/versions/${version}`;
  if (!cards.has(path)) cards.set(path, await read(path));
  return cards.get(path);
}

/** One for each item and label: it takes the service as long as a prediction. */
function heatMap(wardrobe, item, label) {
  if (!heatMaps.has(item.id)) heatMaps.set(item.id, new Map());
  const ofItem = heatMaps.get(item.id);
  if (!ofItem.has(label)) {
    const loading = wardrobe.heatMap(item, label);
    loading.catch(() => ofItem.delete(label)); // to be asked for again
    ofItem.set(label, loading);
  }
  return ofItem.get(label);
}

/** Asked once for each model; where that cannot be said now, a heat map is offered all the same. */
async function mayHaveHeatMap(wardrobe, item) {
  const { name } = item.prediction.model;
  if (!haveHeatMaps.has(name)) {
    try {
      await heatMap(wardrobe, item, item.prediction.label);
      haveHeatMaps.set(name, true);
    } catch (problem) {
      if (problem.kind === "no-heat-map") haveHeatMaps.set(name, false);
    }
  }
  return haveHeatMaps.get(name) ?? true;
}
