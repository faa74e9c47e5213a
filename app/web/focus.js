// Where the focus is: drawing again must not lose it, and arrow keys move it.

/** What has the focus, in words that still hold after drawing again. */
export function focusedPlace() {
  const active = document.activeElement;
  const box = active?.closest("[data-id]");
  if (!box) return active?.dataset.role ? { role: active.dataset.role } : null;
  const list = [...box.parentElement.children];
  return {
    id: box.dataset.id,
    role: active.dataset.role,
    title: box.closest("section")?.getAttribute("aria-labelledby"),
    index: list.indexOf(box),
  };
}

/** Back to it, or to what has taken its place. */
export function restoreFocus(place) {
  if (!place || (document.activeElement && document.activeElement !== document.body)) return;
  const inBox = (box) => box && (box.querySelector(`[data-role="${place.role}"]`) ?? box.querySelector("button"));
  if (!place.id) document.querySelector(`[data-role="${place.role}"]`)?.focus({ preventScroll: true });
  else {
    const heading = place.title && document.getElementById(place.title);
    const list = heading?.closest("section").querySelector("ul");
    const stillThere = list?.querySelector(`[data-id="${place.id}"]`);
    const neighbour = list?.children[Math.min(place.index, list.children.length - 1)];
    (inBox(stillThere ?? neighbour) || heading || document.getElementById("main")).focus({
      preventScroll: Boolean(stillThere),
    });
  }
}

/** Arrow keys go from picture to picture within a drawer. */
export function moveFocus(event) {
  const box = event.target.closest?.(".grid [data-id]");
  if (!box) return;
  const list = [...box.parentElement.children];
  const columns = list.filter((other) => other.offsetTop === list[0].offsetTop).length;
  const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
  const next = list[list.indexOf(box) + by];
  if (!next) return;
  event.preventDefault();
  next.querySelector(`[data-role="${event.target.dataset.role}"]`)?.focus();
}
