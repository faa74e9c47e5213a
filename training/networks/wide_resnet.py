"""The wide residual network: Zagoruyko and Komodakis (2016), with blocks that normalise first (He et al., 2016)."""

from torch import Tensor, nn

from training.networks.layers import Activation, Norm, activate, normalize, per_layer


class PreActivationBlock(nn.Module):
    """Normalise, activate, convolve, twice; the shortcut is added as it is, so that a gradient passes unchanged."""

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int, activation: Activation, norm: Norm, dropout: float
    ) -> None:
        super().__init__()
        self.norm1 = normalize(norm, in_channels, places=True)
        self.act1 = activate(activation)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.norm2 = normalize(norm, out_channels, places=True)
        self.act2 = activate(activation)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        same = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(self.act1(self.norm1(x)))  # (N, out, H/stride, W/stride)
        y = self.conv2(self.dropout(self.act2(self.norm2(y))))
        total: Tensor = y + self.shortcut(x)
        return total


class WideResNet(nn.Module):
    """Grey image (N, 1, 28, 28) -> logits (N, num_classes). The default is WRN-16-4: 16 layers, 4 times as wide."""

    def __init__(
        self,
        *,
        widths: tuple[int, ...] = (64, 128, 256),
        blocks: tuple[int, ...] = (2, 2, 2),
        activation: Activation = "relu",
        norm: Norm = "batch",
        dropout: tuple[float, ...] = (0.0,),  # between the convolutions of each stage's blocks
        num_classes: int,
    ) -> None:
        super().__init__()
        if activation == "maxout":
            raise ValueError("maxout halves the channels, and a residual block adds what has to have as many.")
        self.stem = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        stages: list[nn.Module] = []
        in_channels = 16
        rates = per_layer(dropout, len(widths))
        for level, (width, num_blocks) in enumerate(zip(widths, blocks, strict=True)):
            for index in range(num_blocks):
                stride = 2 if level > 0 and index == 0 else 1
                stages.append(
                    PreActivationBlock(
                        in_channels, width, stride=stride, activation=activation, norm=norm, dropout=rates[level]
                    )
                )
                in_channels = width
        self.trunk = nn.Sequential(*stages, normalize(norm, in_channels, places=True), activate(activation))
        self.head = nn.Linear(in_channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)  # (N, 16, 28, 28)
        x = self.trunk(x)  # (N, widths[-1], S, S), S = 28 / 2^(len(widths) - 1)
        logits: Tensor = self.head(x.mean((2, 3)))  # (N, num_classes)
        return logits
