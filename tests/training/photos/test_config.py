import json
from dataclasses import replace

import pytest

from training.config import ConfigError
from training.photos.config import PhotoConfig


@pytest.mark.parametrize(
    "accepted",
    [
        {"sizes": (32,), "epochs": (1,)},
        {"sizes": (256,), "epochs": (1,)},
        {"batch_size": 2},
        {"frozen_blocks": 0},
        {"frozen_blocks": 16},
        {"backbone": "efficientnet-lite2", "frozen_blocks": 21},
        {"layer_decay": 1.0},
        {"label_smoothing": 0.0},
        {"mixup_alpha": 0.0, "weight_decay": 0.0, "garment_weight": 0.0, "negative_share": 0.0, "warmup_epochs": 0.0},
        {"test_share": 0.0},
    ],
)
def test_limits_are_accepted(accepted: dict[str, object]) -> None:
    """The last value on the good side of each limit."""
    config = PhotoConfig(**accepted)

    assert PhotoConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        ({"sizes": (), "epochs": ()}, "as many numbers in --sizes as in --epochs"),
        ({"sizes": (32, 64), "epochs": (1,)}, "--sizes as in --epochs: got 32,64 and 1."),
        ({"sizes": (0,), "epochs": (1,)}, "multiples of 32"),
        ({"sizes": (48,), "epochs": (1,)}, "multiples of 32"),
        ({"sizes": (288,), "epochs": (1,)}, "from 32 to 256"),
        ({"sizes": (32,), "epochs": (0,)}, "at least one epoch"),
        ({"batch_size": 1}, "two pictures in a batch"),
        ({"backbone": "resnet"}, "no backbone 'resnet'. There are: efficientnet-lite0, efficientnet-lite1"),
        ({"frozen_blocks": -1}, "freeze 0 to 16"),
        ({"frozen_blocks": 17}, "freeze 0 to 16"),
        ({"backbone": "efficientnet-lite2", "frozen_blocks": 22}, "efficientnet-lite2 has 21 blocks: freeze 0 to 21"),
        ({"learning_rate": 0.0}, "learning rate must be above 0"),
        ({"learning_rate": float("nan")}, "learning rate must be above 0"),
        ({"layer_decay": 0.0}, "layer decay"),
        ({"layer_decay": 1.1}, "layer decay"),
        ({"label_smoothing": 1.0}, "label smoothing"),
        ({"weight_decay": -0.1}, "at least 0"),
        ({"mixup_alpha": -0.1}, "at least 0"),
        ({"validation_share": 0.0}, "Validation must be above 0"),
        ({"validation_share": 0.5, "test_share": 0.5}, "leave, with test, something to train on"),
    ],
)
def test_what_would_train_nothing_is_refused(refused: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PhotoConfig(**refused)


def test_sizes_grow_after_their_epochs() -> None:
    """Two epochs at 32 pixels, one at 64; the network is used at the last size."""
    config = replace(PhotoConfig(), sizes=(32, 64), epochs=(2, 1))

    assert [config.size_in_epoch(epoch) for epoch in (1, 2, 3)] == [32, 32, 64]
    assert (config.num_epochs, config.size_pixels) == (3, 64)
    with pytest.raises(ConfigError, match="has 3 epochs"):
        config.size_in_epoch(4)
