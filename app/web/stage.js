// The picture of the detail view, and what the model made of it.

import { element, percent } from "./elements.js";
import { nameOf } from "./naming.js";

const VIEWS = [
  ["picture", "Picture"],
  ["seen", "What the model saw"],
  ["heat", "Heat map"],
];

export class Stage {
  #view = "picture";
  #item = null;
  #made = new Map(); // item id -> what was asked for ("seen", or a label) -> promise of the address of its picture
  #haveHeatMaps = new Map(); // name of a model -> whether it has them, where that is known

  constructor(wardrobe) {
    this.wardrobe = wardrobe;
  }

  /** The view that was chosen stays while the item is the same. */
  of(item) {
    if (this.#item?.id !== item.id) this.#view = "picture";
    this.#item = item;
    const frame = element("div", { class: "frame" });
    const caption = element("p", { class: "hint", "aria-live": "polite" });
    const buttons = VIEWS.map(([view, title]) =>
      element("button", { "data-action": view, "aria-pressed": "false", onclick: () => paint(view) }, title),
    );
    const paint = async (view) => {
      this.#view = view;
      buttons.forEach((button, index) => button.setAttribute("aria-pressed", String(VIEWS[index][0] === view)));
      const box = element("div", { class: "overlay" });
      frame.className = `frame ${view}`;
      if (item.prediction.image.width <= 64) frame.classList.add("tiny");
      frame.replaceChildren(box);
      caption.replaceChildren(view === "picture" ? "" : "One moment …");
      if (view === "picture") this.#picture(item, box);
      else if (view === "seen") await this.#seen(item, box, caption);
      else await this.#heat(item, box, caption);
    };
    const heatButton = buttons[2];
    heatButton.hidden = true; // until there is one to show
    this.#mayHaveHeatMap(item).then((has) => (heatButton.hidden = !has));
    paint(this.#view);
    return element(
      "div",
      { class: "stage" },
      frame,
      element("div", { class: "switch", role: "group", "aria-label": "Show" }, buttons),
      caption,
    );
  }

  /** Free the pictures of an item that is gone. */
  forget(item) {
    for (const loading of this.#made.get(item.id)?.values() ?? []) loading.then(URL.revokeObjectURL, () => null);
    this.#made.delete(item.id);
  }

  #picture(item, box) {
    const image = element("img", { alt: `${nameOf(item)}, ${item.filename ?? "without a file name"}` });
    image.addEventListener("error", () => {
      box.replaceChildren(element("p", { class: "hint" }, "The browser cannot show this picture."));
    });
    this.wardrobe.showPicture(image, item);
    box.append(image);
  }

  /** The very picture that the network gets, enlarged. */
  async #seen(item, box, caption) {
    let answer;
    try {
      const address = await this.#once(item, "seen", () => this.wardrobe.inputPicture(item));
      answer = element("img", { alt: `${nameOf(item)}, as the model got it`, src: address });
      await answer.decode();
    } catch (problem) {
      if (box.isConnected) caption.replaceChildren(problem.message);
      return;
    }
    if (!box.isConnected) return; // another view was chosen meanwhile
    box.append(answer);
    const { naturalWidth: width, naturalHeight: height } = answer;
    if (width <= 64) box.parentElement.classList.add("tiny");
    caption.replaceChildren(`All that the network gets of it: ${width} × ${height} pixels, here enlarged.`);
  }

  async #heat(item, box, caption) {
    const { label, top_k } = item.prediction;
    const select = element(
      "select",
      { "aria-label": "Evidence for" },
      top_k.map((candidate) => {
        const words = `${candidate.label}, ${percent(candidate.probability)}`;
        return element("option", { value: candidate.label, selected: candidate.label === label }, words);
      }),
    );
    const lay = async () => {
      const chosen = select.value;
      let answer;
      try {
        const address = await this.#once(item, `label ${chosen}`, () => this.wardrobe.heatMap(item, chosen));
        answer = { layer: [element("img", { class: "heat", alt: "", src: address })], words: "The redder, the more speaks for " };
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

  /** One for each item and question: each takes the service as long as a prediction. */
  #once(item, what, ask) {
    if (!this.#made.has(item.id)) this.#made.set(item.id, new Map());
    const ofItem = this.#made.get(item.id);
    if (!ofItem.has(what)) {
      const loading = ask();
      loading.catch(() => ofItem.delete(what)); // to be asked for again
      ofItem.set(what, loading);
    }
    return ofItem.get(what);
  }

  /** Asked once for each model; where that cannot be said now, a heat map is offered all the same. */
  async #mayHaveHeatMap(item) {
    const { name } = item.prediction.model;
    if (!this.#haveHeatMaps.has(name)) {
      const { label } = item.prediction;
      try {
        await this.#once(item, `label ${label}`, () => this.wardrobe.heatMap(item, label));
        this.#haveHeatMaps.set(name, true);
      } catch (problem) {
        if (problem.kind === "no-heat-map") this.#haveHeatMaps.set(name, false);
      }
    }
    return this.#haveHeatMaps.get(name) ?? true;
  }
}
