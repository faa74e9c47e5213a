// Pictures that may show one garment twice: side by side, with the question which to keep.

import { element, icon, megabytes } from "./elements.js";
import { nameOf } from "./naming.js";

let made = { key: null, node: null }; // made again only when it would look different

/**
 * The section that asks; null where there is nothing to ask. `pairs` are [item, the other one]. `actions` are the
 * page's: open(item), keepBoth(item), removeOne(item), showThumbnail(image, item).
 */
export function twinsSection(pairs, actions) {
  if (pairs.length === 0) return null;
  const key = JSON.stringify(pairs.map((pair) => pair.map(({ id, revision }) => [id, revision])));
  if (made.key === key) return made.node;
  const header = element(
    "header",
    {},
    element("h2", { id: "title-twins", tabindex: "-1" }, icon("twins"), "Twice?"),
    element("span", { class: "number" }, pairs.length.toLocaleString("en")),
    element("p", { class: "hint" }, "These look much the same. Is it one garment?"),
  );
  const list = element(
    "ul",
    { class: "pairs" },
    pairs.map((pair) => question(pair, actions)),
  );
  made = { key, node: element("section", { class: "drawer twins", "aria-labelledby": "title-twins" }, header, list) };
  return made.node;
}

function question([item, other], actions) {
  const side = (each, which) => {
    const { width, height } = each.prediction.image;
    const image = element("img", { alt: "", decoding: "async", draggable: "false" });
    image.addEventListener("error", () => image.replaceWith(icon("pictures")));
    actions.showThumbnail(image, each);
    const name = `${which} picture: ${nameOf(each)}${each.filename ? `, ${each.filename}` : ""}`;
    const picture = { class: "picture", "aria-label": name, onclick: () => actions.open(each) };
    return element(
      "div",
      { class: width <= 64 ? "side tiny" : "side" },
      element("div", { class: "photo" }, element("button", picture, image)),
      element("p", { class: "hint" }, `${width} × ${height}, ${megabytes(each.num_bytes)}`),
      element(
        "button",
        { class: "choice", "aria-label": `Remove the ${name}`, onclick: () => actions.removeOne(each) },
        icon("trash"),
        "Remove",
      ),
    );
  };
  return element(
    "li",
    {},
    side(other, "older"),
    side(item, "newer"),
    element("button", { class: "choice both", onclick: () => actions.keepBoth(item) }, icon("check"), "Keep both"),
  );
}
