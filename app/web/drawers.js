// The drawers: the list of all, and each with its pictures.

import { droppable } from "./dragging.js";
import { DRAWERS, drawerTitle, element, icon, reconcile } from "./elements.js";
import { tile } from "./tiles.js";

export const ORDER = ["review", ...DRAWERS, "not_a_garment"];

const navigation = document.getElementById("drawers");
const sectionNodes = new Map(); // drawer -> its <section>, kept

/** The list of drawers; `counts` are the numbers of their items, `drawer` is the open one, null: all. */
export function drawNavigation({ counts, drawer, total }, { dropped }) {
  const link = (name, title, number) => {
    const unit = element("span", { class: "unseen" }, number === 1 ? " picture" : " pictures");
    const node = element(
      "a",
      { href: name ? `#${name}` : "#", "aria-current": name === drawer && "page", class: number ? null : "none" },
      icon(name ?? "all"),
      element("span", {}, title),
      element("span", { class: "number" }, number.toLocaleString("en"), unit),
    );
    return name ? droppable(node, (ids) => dropped(ids, name)) : node;
  };
  // "other" is for what has no drawer of its own: shown where something lies in it.
  const names = ORDER.filter((name) => counts[name] || !["review", "other", "not_a_garment"].includes(name));
  const links = [link(null, "All", total), ...names.map((name) => link(name, drawerTitle(name), counts[name] ?? 0))];
  const list = navigation.firstElementChild ?? navigation.appendChild(element("ul"));
  const scrolled = navigation.scrollLeft;
  list.replaceChildren(...links.map((each) => element("li", {}, each)));
  navigation.scrollLeft = scrolled;
}

/**
 * The section of a drawer: `shown` are the items in view, `total` how many there are; `isOpen`, it is the only one.
 * `actions` are the page's: dropped(ids, name), loadMore(name), selectAll(ids, on), and those of tiles.
 */
export function sectionOf(name, { shown, total, isOpen, isFiltered, selecting, selected }, actions) {
  const ids = shown.map(({ id }) => id);
  const asCards = name === "review" || name === "not_a_garment";
  const numHidden = total - ids.length;
  const hint = { review: "The model is not sure. What are they?", not_a_garment: "These do not look like clothes." }[
    name
  ];
  const more =
    numHidden > 0 &&
    element(
      isOpen ? "button" : "a",
      isOpen ? { class: "more", onclick: () => actions.loadMore(name) } : { class: "more", href: `#${name}` },
      isOpen ? "Show more" : `Show all ${total.toLocaleString("en")}`,
    );
  const allSelected = ids.every((id) => selected.has(id));
  const header = element(
    "header",
    {},
    element("h2", { id: `title-${name}`, tabindex: "-1" }, icon(name), drawerTitle(name)),
    element("span", { class: "number" }, total.toLocaleString("en")),
    hint && ids.length > 0 && element("p", { class: "hint" }, hint),
    selecting &&
      ids.length > 0 &&
      element(
        "button",
        { class: "quiet", "data-role": `all-${name}`, onclick: () => actions.selectAll(ids, !allSelected) },
        allSelected ? "Select none" : "Select all",
      ),
  );
  if (!sectionNodes.has(name)) {
    const list = element("ul", { class: asCards ? "cards" : "grid" });
    const attributes = { class: `drawer ${name}`, "aria-labelledby": `title-${name}` };
    sectionNodes.set(
      name,
      droppable(element("section", attributes, list), (dragged) => actions.dropped(dragged, name)),
    );
  }
  const node = sectionNodes.get(name);
  const list = node.querySelector("ul");
  reconcile(
    list,
    shown.map((item) => tile(item, { asCard: asCards, selecting, ticked: selected.has(item.id) }, actions)),
  );
  list.hidden = ids.length === 0;
  const words = isFiltered ? "Nothing here fits what you are looking for." : "Nothing in here.";
  reconcile(node, [header, list, ids.length === 0 && element("p", { class: "nothing" }, words), more].filter(Boolean));
  return node;
}
