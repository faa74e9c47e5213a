// Elements, and the words and numbers that stand on them.

/** Make an element. `on...` properties are listeners; null and false ones are left out; strings become text. */
export function element(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** Make these the children, touching only what differs: what stays keeps its focus, and can be dragged meanwhile. */
export function reconcile(parent, nodes) {
  const wanted = new Set(nodes);
  for (const child of [...parent.children]) if (!wanted.has(child)) child.remove();
  nodes.forEach((node, index) => {
    if (parent.children[index] !== node) parent.insertBefore(node, parent.children[index] ?? null);
  });
}

const SVG = "http://www.w3.org/2000/svg";
const ICONS = new URL("icons.svg", import.meta.url).pathname;

/** A picture beside words: screen readers pass over it. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `${ICONS}#${name}`);
  svg.append(use);
  return svg;
}

/** A bar of 0..1; its length is set from here because the page's policy allows no style in attributes. */
export function bar(share, properties = {}) {
  const fill = element("span", { class: "fill" });
  fill.style.width = `${100 * share}%`;
  return element("span", { class: "bar", "aria-hidden": "true", ...properties }, fill);
}

/** Drawers in the order they stand in; `review` and `not_a_garment` are the tray and what was set aside. */
export const DRAWERS = ["tops", "bottoms", "dresses", "outerwear", "footwear", "headwear", "bags", "other"];

const TITLES = { review: "To check", not_a_garment: "Set aside" };

export function drawerTitle(drawer) {
  return TITLES[drawer] ?? drawer[0].toUpperCase() + drawer.slice(1);
}

/** 0.9996 is not called 100 %, nor 0.0004 nothing; no line breaks before the sign. */
export function percent(share) {
  if (share > 0.99 && share < 1) return ">\u00a099\u00a0%";
  if (share > 0 && share < 0.01) return "<\u00a01\u00a0%";
  return `${Math.round(100 * share)}\u00a0%`;
}

export function count(number, one, many = `${one}s`) {
  return `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
}

export function megabytes(bytes) {
  return bytes < 1e5 ? `${Math.ceil(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

export function sleep(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("Cancelled", "AbortError"));
    });
  });
}
