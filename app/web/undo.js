// The changes that can be taken back, each as the ids of its pictures, the last one last.

let changes = [];

export function lastChange() {
  return changes.at(-1) ?? null;
}

export function rememberChange(ids) {
  changes.push(ids);
}

/** It was taken back, from here or from its picture. */
export function forgetChange(ids) {
  const index = changes.findLastIndex((list) => list.length === ids.length && list.every((id) => ids.includes(id)));
  if (index >= 0) changes.splice(index, 1);
}

/** These pictures are gone. */
export function forgetPictures(ids) {
  changes = changes.map((list) => list.filter((id) => !ids.includes(id))).filter((list) => list.length > 0);
}
