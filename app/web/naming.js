// What a picture is called, and who said so.

import { DRAWERS, drawerTitle, percent } from "./elements.js";

const NUM_CHOICES = 3; // likely labels as buttons; the others are one tap further

/** The likely labels: those that cannot be ruled out first, then the most probable ones. */
export function likelyLabels(prediction, number = NUM_CHOICES) {
  const labels = [...(prediction.prediction_set ?? []), ...prediction.top_k.map(({ label }) => label)];
  return [...new Set(labels)].slice(0, Math.max(number, prediction.prediction_set?.length ?? 0));
}

/** The drawer of each label that these pictures may get: those of their models, and those that the person made up. */
export function knownLabels(pictures, all) {
  const drawers = new Map();
  for (const { prediction } of pictures) for (const { label, group } of prediction.top_k) drawers.set(label, group);
  for (const { label, drawer, corrected } of all) {
    if (corrected && label && !drawers.has(label) && DRAWERS.includes(drawer)) drawers.set(label, drawer);
  }
  return drawers;
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
