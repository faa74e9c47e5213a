// What the person looks for: words, label, who sorted it, and in which order.

import { element } from "./elements.js";

const $ = (id) => document.getElementById(id);

/**
 * As the list of items takes it. The tray is a queue where no other order was chosen: what arrives while its pictures
 * are looked at comes behind them.
 */
export function filters(drawer = null) {
  const sort = $("sort").value;
  return {
    q: $("search").value.trim(),
    label: $("filter-label").value,
    corrected: $("filter-corrected").value,
    sort: drawer === "review" && sort === "-added" ? "added" : sort,
  };
}

export function isFiltered() {
  const { q, label, corrected } = filters();
  return Boolean(q || label || corrected);
}

/** The labels to filter by: those of the items seen so far. */
export function nameLabels(items) {
  const select = $("filter-label");
  const chosen = select.value;
  const labels = new Set(chosen ? [chosen] : []);
  for (const item of items) {
    if (item.label) labels.add(item.label);
    for (const { label } of item.prediction.top_k) labels.add(label);
  }
  const options = [...labels].sort().map((label) => element("option", { selected: label === chosen }, label));
  select.replaceChildren(element("option", { value: "" }, "All"), ...options);
}

/** Answers whether there was anything to clear. */
export function clearFilters() {
  const had = isFiltered();
  for (const id of ["search", "filter-label", "filter-corrected"]) $(id).value = "";
  return had;
}
