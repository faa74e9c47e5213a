// A picture among others: what it is and how sure that is, or the question what it is.

import { DRAWERS, element, icon, percent } from "./elements.js";
import { certainty, likelyLabels, nameOf } from "./naming.js";

const made = new Map(); // id -> {key, node}: a tile is made again only when it would look different

/**
 * The tile of an item; with `asCard` it asks what the picture is. `actions` are the page's: open(item),
 * tick(item, on, isRange), drag(event, item), change(item, what), move(item), showThumbnail(image, item).
 */
export function tile(item, { asCard, selecting, ticked }, actions) {
  const key = JSON.stringify([item.revision, item.drawer, asCard, selecting, ticked]);
  const cached = made.get(item.id);
  if (cached?.key === key) return cached.node;
  const name = nameOf(item);
  const image = element("img", { alt: "", loading: "lazy", decoding: "async", draggable: "false" });
  image.addEventListener("error", () =>
    image.replaceWith(icon(DRAWERS.includes(item.drawer) ? item.drawer : "pictures")),
  );
  actions.showThumbnail(image, item);
  const tick = element("input", {
    type: "checkbox",
    checked: ticked,
    "data-role": "tick",
    "aria-label": `Select ${name}${item.filename ? `, ${item.filename}` : ""}`,
    onclick: (event) => actions.tick(item, event.target.checked, event.shiftKey),
  });
  const open = element(
    "button",
    {
      class: "picture",
      "data-role": "open",
      "aria-label": `${name}, ${certainty(item)}${item.filename ? `, ${item.filename}` : ""}`,
      onclick: (event) => (selecting ? actions.tick(item, !ticked, event.shiftKey) : actions.open(item)),
    },
    image,
  );
  const node = element(
    "li",
    {
      class: `tile${ticked ? " ticked" : ""}${item.prediction.image.width <= 64 ? " tiny" : ""}`,
      "data-id": item.id,
      draggable: "true",
      ondragstart: (event) => actions.drag(event, item),
    },
    element("div", { class: "photo" }, open, element("label", { class: "tick" }, tick)),
    asCard ? question(item, actions) : caption(item),
  );
  made.set(item.id, { key, node });
  return node;
}

function caption(item) {
  return element(
    "p",
    { class: "caption", "aria-hidden": "true" }, // the button's name says the same
    element("span", { class: "label" }, item.label ?? "no label"),
    item.corrected
      ? element("span", { class: "sure", title: "Sorted by you" }, icon("check"))
      : element("span", { class: "sure" }, percent(item.prediction.probability)),
  );
}

/** A picture that a person should look at, with its likely labels as buttons. */
function question(item, actions) {
  const aside = item.drawer === "not_a_garment";
  const labels = aside ? [item.prediction.label] : likelyLabels(item.prediction);
  return element(
    "div",
    { class: "question" },
    element(
      "p",
      { class: "hint" },
      item.corrected ? "Put here by you." : aside ? item.prediction.reason : item.filename,
    ),
    element(
      "div",
      { class: "choices", role: "group", "aria-label": `What is ${item.filename ?? "it"}?` },
      labels.map((label, index) =>
        element(
          "button",
          { class: "choice", "data-role": `choice-${index}`, onclick: () => actions.change(item, { label }) },
          aside ? `It is: ${label}` : label,
        ),
      ),
      element(
        "button",
        { class: "choice other", "data-role": "choice-other", onclick: () => actions.move(item) },
        "Other …",
      ),
    ),
  );
}

/** Let the tiles of these items come in with a movement, unless the person wants none. */
export function comeIn(ids) {
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  for (const id of ids) {
    const from = { opacity: 0, transform: "translateY(-12px) scale(0.96)" };
    made.get(id)?.node.animate([from, {}], { duration: 320, easing: "cubic-bezier(0.2, 0.8, 0.2, 1)" });
  }
}
