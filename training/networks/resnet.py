"""The residual network for 28x28 grey images: He et al., Deep residual learning (2015), with a wide, short trunk.

Most of the arithmetic is at 14x14 and 7x7 with 64 and 128 channels, where a CPU does more of it in a second than in the
16-channel 28x28 layers of ResNet-20: 318 against 216 GFLOP/s in training, bfloat16, two cores of an EPYC (Zen 4).
"""

from torch import Tensor, nn

from training.networks.layers import Activation, Norm, activate, normalize


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut; `stride` 2 halves height and width."""

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int, activation: Activation = "relu", norm: Norm = "batch"
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.norm1 = normalize(norm, out_channels, places=True)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = normalize(norm, out_channels, places=True)
        if norm != "none":  # each block starts as its shortcut: Goyal et al. (2017), section 5.1
            nn.init.zeros_(self.norm2.get_parameter("weight"))
        self.activation = activate(activation)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(stride, ceil_mode=True),  # keeps every pixel: He et al., Bag of tricks (2018), ResNet-D
                nn.Conv2d(in_channels, out_channels, 1, bias=False),
                normalize(norm, out_channels, places=True),
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.norm1(self.conv1(x)))  # (N, out, H/stride, W/stride)
        y = self.norm2(self.conv2(y))
        total: Tensor = self.activation(y + self.shortcut(x))
        return total


class ResNet(nn.Module):
    """Grey image (N, 1, S, S) -> logits (N, num_classes).

    With widths 16, 32, 64 and n blocks each it is the family of He et al., section 4.2, with 6 n + 2 layers.
    """

    def __init__(
        self,
        *,
        widths: tuple[int, ...] = (32, 64, 128),  # see the README for what was compared
        blocks: tuple[int, ...] = (0, 2, 2),
        activation: Activation = "relu",
        norm: Norm = "batch",
        num_classes: int,
    ) -> None:
        """`widths[i]` channels and `blocks[i]` blocks at resolution S / 2^i; the stem has `widths[0]` channels."""
        super().__init__()
        if activation == "maxout":
            raise ValueError("maxout halves the channels, and a residual block adds what has to have as many.")
        self.stem = nn.Sequential(
            nn.Conv2d(1, widths[0], 3, padding=1, bias=False),
            normalize(norm, widths[0], places=True),
            activate(activation),
        )
        stages: list[nn.Module] = []
        in_channels = widths[0]
        for level, (width, num_blocks) in enumerate(zip(widths, blocks, strict=True)):
            for index in range(num_blocks):
                stride = 2 if level > 0 and index == 0 else 1
                stages.append(ResidualBlock(in_channels, width, stride=stride, activation=activation, norm=norm))
                in_channels = width
        self.trunk = nn.Sequential(*stages)
        self.head = nn.Linear(in_channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)  # (N, widths[0], S, S)
        x = self.trunk(x)  # (N, widths[-1], S / 2^levels, S / 2^levels)
        logits: Tensor = self.head(x.mean((2, 3)))  # (N, num_classes)
        return logits
