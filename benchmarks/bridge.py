"""How far a network trained on Fashion-MNIST alone gets on real photos, as the picture is prepared better and better.

    pip install opencv-python-headless==5.0.0.93
    python -m benchmarks.bridge data/clothing-dataset --out runs/bridge.json

The photos are those of the public clothing data set whose label Fashion-MNIST has too; those of the test part are read
to find the split, and not used. The JSON file is a `Study`: a table for a model card. The weights are never touched;
what is compared is the preparation.

2,539 photos, fashion-mnist/1, one thread of an AMD EPYC, 2026-11-25: 0.3 % right as they are, 34.9 % with the data
set's recipe, 51.2 % (43.1 to 57.8 %) with the garment cut out first. The mask takes 37 ms a photo, the recipe 2 ms.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor

from app.artifact import Artifact, Card, Study
from app.engines import load_artifact
from app.images import decode
from benchmarks.train_speed import processor
from training.photos.config import PhotoConfig
from training.photos.dataset import Columns, Row, load_photos
from training.photos.evaluate import DARK_BELOW, LIGHT_ABOVE, bootstrap_by_group, macro_recall
from training.photos.labels import DEFAULT_LABELS, read_label_map
from training.photos.splits import TEST
from training.preprocess import SIZE_PIXELS, fit_into_square, light_on_dark, to_grey

SAME_AS = {  # label of the photos -> classes that are right
    "T-Shirt": {"T-shirt/top"}, "Pants": {"Trouser"}, "Longsleeve": {"Pullover"}, "Dress": {"Dress"},
    "Outwear": {"Coat"}, "Shirt": {"Shirt"}, "Shoes": {"Sandal", "Sneaker", "Ankle boot"},
}  # fmt: skip
CACHE_FOLDER = Path("data")  # where training keeps the decoded photos
PAPER = 253  # the white, #fdfdfd, that the data set's products were photographed on: Xiao et al. (2017), section 2
GARMENT_LUMA = 156.0  # mean over what is above 5 % of white in its training pictures; 155 by picture, 157 by pixel
# On contact sheets of 40 photos, GrabCut from a rectangle outlined more garments than GrabCut from a middle patch or
# Otsu's threshold on the distance to the border's colour. 112 px: half the time, but sleeves are lost (overlap .93).
MASK_LONGEST_PIXELS, MASK_ITERATIONS, MASK_MARGIN = 160, 3, 0.05


def main() -> None:
    options = parse_options()
    cv2.setNumThreads(torch.get_num_threads())
    artifact = load_artifact(options.model)
    config = PhotoConfig()  # for the split that the photo model has
    dataset = load_photos(
        [options.photos],
        label_map=read_label_map(DEFAULT_LABELS),
        columns=Columns(),
        cache_folder=CACHE_FOLDER,
        shares=config.shares,
        seed=config.seed,
    )
    print(dataset.summary())
    rows = [row for row in dataset.photos.rows if row.part != TEST and row.label in SAME_AS]
    if options.limit:
        rows = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))[: options.limit]]

    inputs: dict[str, list[Tensor]] = defaultdict(list)
    seconds: dict[str, list[float]] = defaultdict(list)  # of processor time, so that a busy machine can measure
    luma = []
    for row in track(rows, description="preparing"):
        pixels = decode(row.path.read_bytes()).pixels
        started = time.process_time()
        artifact.preprocess(pixels)
        seconds["recipe"].append(time.process_time() - started)
        started = time.process_time()
        mask = torch.from_numpy(cut_out(pixels))
        seconds["mask"].append(time.process_time() - started)
        luma.append(read_grey(pixels)[mask].mean().item())
        for name, prepared in prepare(artifact, pixels, mask).items():
            inputs[name].append(prepared)
    logits = {name: artifact.engine.outputs(torch.stack(batch).numpy())[0] for name, batch in inputs.items()}
    predicted = {name: torch.from_numpy(values.argmax(1)) for name, values in logits.items()}
    milliseconds = {name: f"{1000 * np.median(values):.0f} ms" for name, values in seconds.items()}

    study = summarise(artifact.card, rows, torch.tensor(luma), predicted, milliseconds)
    for line in [study.columns, *study.rows]:
        print("".join(f"{cell:<24}" for cell in line))
    print(f"\n{study.text}")
    if options.out:
        options.out.write_text(study.model_dump_json(indent=1) + "\n", encoding="utf-8")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("photos", type=Path, help="folder with images.csv (image, sender_id, label, kids) and images/")
    parser.add_argument("--model", type=Path, default=Path("models/fashion-mnist/1"), help="artefact that is tried out")
    parser.add_argument("--out", type=Path, help="JSON file to write the study to; default: only print it")
    parser.add_argument("--limit", type=int, default=0, help="use this many photos, to try it out; 0 for all")
    return parser.parse_args()


def cut_out(pixels: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) -> bool (H, W), true on the garment: GrabCut (Rother et al., 2004), largest piece.

    All true where nothing stands out from the border.
    """
    height, width, _ = pixels.shape
    scale = min(1.0, MASK_LONGEST_PIXELS / max(height, width))
    small = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    rows, columns, _ = small.shape
    top, left = max(1, round(rows * MASK_MARGIN)), max(1, round(columns * MASK_MARGIN))
    box = (left, top, columns - 2 * left, rows - 2 * top)
    cv2.setRNGSeed(0)  # of the k-means that GrabCut starts from
    marks = np.zeros((rows, columns), np.uint8)
    cv2.grabCut(small, marks, box, np.zeros((1, 65)), np.zeros((1, 65)), MASK_ITERATIONS, cv2.GC_INIT_WITH_RECT)
    is_garment = (marks == cv2.GC_FGD) | (marks == cv2.GC_PR_FGD)
    num_pieces, pieces, statistics, _ = cv2.connectedComponentsWithStats(is_garment.astype(np.uint8))
    if num_pieces == 1:  # background alone
        return np.ones((height, width), bool)
    largest = 1 + int(statistics[1:, cv2.CC_STAT_AREA].argmax())
    mask = (pieces == largest).astype(np.uint8)
    return cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST).astype(bool)


def read_grey(pixels: np.ndarray) -> Tensor:
    """uint8 (H, W, 3) -> float32 (H, W) in 0..255, as the recipe makes it."""
    return to_grey(torch.from_numpy(pixels.transpose(2, 0, 1).copy()))


def prepare(artifact: Artifact, pixels: np.ndarray, mask: Tensor) -> dict[str, Tensor]:
    """Network inputs (1, 28, 28) of a photo, uint8 (H, W, 3), whose garment is under `mask` (H, W); plainest first."""
    grey = read_grey(pixels)
    luma = grey[mask].mean()
    rows, columns = (mask.any(axis).nonzero() for axis in (1, 0))
    box = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
    rule = artifact.card.input
    black, white = -rule.mean / rule.std, (1 - rule.mean) / rule.std

    def standardise(picture: Tensor) -> Tensor:
        return (black + picture / 255 * (white - black))[None]

    def squeeze(grey: Tensor) -> Tensor:
        size = [SIZE_PIXELS, SIZE_PIXELS]
        return standardise(F.interpolate(grey[None, None], size=size, mode="bilinear", antialias=True)[0, 0])

    def on_black(grey: Tensor) -> Tensor:
        """The recipe from its third step on: the mask has found edge and background already."""
        return standardise(fit_into_square(torch.where(mask, grey.clamp(0, 255), 0.0)[box], size=SIZE_PIXELS))

    return {
        "naive": squeeze(grey),
        "naive, negated": squeeze(255 - grey),
        "polarity by border": squeeze(light_on_dark(grey, border=max(1, min(grey.shape) // SIZE_PIXELS))),
        "recipe": torch.from_numpy(artifact.preprocess(pixels)),
        "mask, recipe": torch.from_numpy(artifact.preprocess(np.where(mask[:, :, None], pixels, np.uint8(PAPER)))),
        "mask, own grey": on_black(grey),
        "mask, own grey, evened": on_black(grey - luma + GARMENT_LUMA),
        "mask, negated": on_black(255 - grey),
        "mask, negated, evened": on_black(luma - grey + GARMENT_LUMA),
        "mask, outline alone": on_black(torch.full_like(grey, GARMENT_LUMA)),
    }


def summarise(
    card: Card, rows: Sequence[Row], luma: Tensor, predicted: Mapping[str, Tensor], milliseconds: Mapping[str, str]
) -> Study:
    """`luma` and each of `predicted` (N,) belong to the N rows."""
    labels = torch.tensor([list(SAME_AS).index(row.label) for row in rows])
    right = torch.tensor([[name in same for name in card.class_names] for same in SAME_AS.values()])  # (7, 10)
    groups = [row.group for row in rows]
    light, dark = luma > LIGHT_ABOVE, luma < DARK_BELOW
    table: dict[str, list[str]] = {}
    accuracy: dict[str, float] = {}
    for name, classes in predicted.items():
        correct = right[labels, classes]
        accuracy[name] = correct.double().mean().item()
        (low, high), _ = bootstrap_by_group(correct, labels, groups)
        is_bag = classes == card.class_names.index("Bag")
        shares = [percent(chosen.double().mean().item()) for chosen in (correct, is_bag, correct[light], correct[dark])]
        interval, recall = f"{percent(low)} to {percent(high)}", percent(macro_recall(correct, labels))
        table[name] = [shares[0], interval, recall, *shares[1:]]
    columns = ["preparation", "top-1", "95 % interval", "macro recall", "called Bag", "light garments", "dark garments"]
    top1 = {name: cells[0] for name, cells in table.items()}
    best = max(accuracy, key=accuracy.__getitem__)
    own = card.metrics.get("test")
    text = (
        f"{datetime.now(UTC):%Y-%m-%d}, {processor()}: {card.name}/{card.version}, trained on Fashion-MNIST alone, was "
        f"shown {len(rows):,} photos of {len(set(groups))} senders, in the {len(SAME_AS)} classes that both know; "
        f"{int(light.sum())} show light garments, {int(dark.sum())} dark ones. Scaled to 28x28 as they are, "
        f"{table['naive'][3]} are called Bag and {top1['naive']} sorted rightly ({top1['naive, negated']} negated). "
        f"The data set's own seven steps give {top1['recipe']}; "
        f"with the garment cut out first and put on white, {top1['mask, recipe']} (light "
        f"garments {table['recipe'][4]}, then {table['mask, recipe'][4]}). Cut out and put on black, garments are "
        f"sorted with {top1['mask, own grey']} in their own grey and {top1['mask, negated']} negated; with the mean "
        f"brightness evened to the data set's, {top1['mask, own grey, evened']} and {top1['mask, negated, evened']}; "
        f"the outline alone, flat grey, gives {top1['mask, outline alone']}. The recipe takes "
        f"{milliseconds['recipe']} of processor time, the mask {milliseconds['mask']} more. How to mask was "
        "chosen by eye on 40 of these photos; none of them is of the photos' test part. The best preparation "
        f"({best}) gives {top1[best]}, {100 * (accuracy[best] - accuracy['naive']):.1f} points more than none."
    )
    if own is not None:
        text += f" On the test pictures of its own data set the same network is right for {percent(own.accuracy)}."
    rows_of_table = [[name, *cells] for name, cells in table.items()]
    return Study(title="How far Fashion-MNIST reaches on real photos", text=text, columns=columns, rows=rows_of_table)


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


if __name__ == "__main__":
    main()
