"""Every choice of FitConfig trains, exports and loads again; what does not go together is refused with its reason."""

import dataclasses
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch

from app.artifact import read_card
from app.engines import load_artifact
from training.config import ConfigError, FitConfig
from training.data import Splits
from training.export import export
from training.fit import build_network, fit
from training.networks.layers import ACTIVATIONS
from training.presets import FOLDER, load_preset

SHIPPED = Path(__file__).parents[2] / "models" / "fashion-mnist" / "1"
PLAIN = {"label_smoothing": 0.0, "momentum": 0.0, "nesterov": False}
MLP = {"network": "mlp", "hidden": (16, 8)}

# Every value of every choice stands here at least once; what is combined with what is by chance.
ROWS: dict[str, dict[str, Any]] = {
    "perceptron": {
        **{"network": "perceptron", "loss": "perceptron", "scaling": "zero-to-one", "batch_size": 1},
        **{**PLAIN, "schedule": "constant", "ema_decay": 0.0},
    },
    "adaline": {
        **{"network": "adaline", "loss": "squared", "scaling": "minus-one-to-one", "batch_size": 0},
        **{**PLAIN, "learning_rate": 0.01, "schedule": "linear", "mix": "mixup"},
    },
    "softmax": {
        **{"network": "softmax", "scaling": "none", "optimizer": "adagrad", "learning_rate": 1e-3},
        **{"l1": 1e-4, "l2": 1e-4, "init": "normal", "init_scale": 0.001, "zero_biases": True},
    },
    "mlp-sigmoid": {
        **{**MLP, "activation": "sigmoid", "norm": "layer", "norm_position": "after", "dropout": (0.2, 0.1)},
        **{"init": "xavier", "optimizer": "rmsprop", "learning_rate": 1e-3, "schedule": "step"},
    },
    "mlp-maxout": {
        **{**MLP, "activation": "maxout", "norm": "batch", "norm_position": "before"},
        **{"optimizer": "adam", "learning_rate": 1e-3, "schedule": "one-cycle", "precision": "float32"},
    },
    "mlp-identity": {**MLP, "activation": "identity", "loss": "hinge", "label_smoothing": 0.0, "init": "orthogonal"},
    "lenet5-tanh": {
        **{"network": "lenet5", "activation": "tanh", "norm": "batch", "norm_position": "after", "dropout": (0.5,)},
        **{"init": "uniform", "init_scale": 0.1, "optimizer": "adamw", "learning_rate": 1e-3},
    },
    "lenet5-hardtanh": {"network": "lenet5", "activation": "hardtanh", "schedule": "plateau", "patience": 1},
    "cnn-leaky": {
        **{"network": "cnn", "widths": (8, 8), "hidden": (16,), "activation": "leaky-relu", "norm": "group"},
        **{"init": "he", "init_slope": 0.01, "max_rotation_degrees": 15.0, "max_zoom": 0.1},
        "interpolation": "nearest",
    },
    "cnn-prelu": {
        **{"network": "cnn", "widths": (4,), "hidden": (), "activation": "prelu", "norm": "none", "mix": "cutmix"},
        **{"flip": False, "max_rotation_degrees": 15.0, "interpolation": "bilinear"},
    },
    "allconv-rrelu": {
        **{"network": "allconv", "widths": (4, 8), "activation": "rrelu", "norm": "instance"},
        **{"optimizer": "radam", "learning_rate": 1e-3},
    },
    "vgg-elu": {"network": "vgg", "widths": (4, 8), "blocks": (1, 2), "hidden": (16,), "activation": "elu"},
    "resnet-relu": {"network": "resnet", "widths": (4, 8), "blocks": (0, 1), "activation": "relu"},
    "resnet20-selu": {"network": "resnet20", "widths": (8, 8), "blocks": (1, 1), "activation": "selu", "norm": "group"},
    "wide-resnet-gelu": {
        **{"network": "wide-resnet", "widths": (8, 8), "blocks": (1, 1), "activation": "gelu", "norm": "layer"},
        **{"dropout": (0.1,), "precision": "bfloat16"},
    },
}


def config_of(row: dict[str, Any]) -> FitConfig:
    base = {"epochs": 2, "batch_size": 16, "warmup_epochs": 0.5, "num_train": 60, "num_validation": 500}
    return FitConfig.from_dict(base | row)


@pytest.fixture(scope="session")
def few(sample: Splits) -> Splits:
    """60 training and 40 validation pictures."""
    return dataclasses.replace(
        sample,
        train=sample.train.subset(torch.arange(60)),
        validation=sample.validation.subset(torch.arange(40)),
    )


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_a_choice_trains_and_exports(row: dict[str, Any], few: Splits, tmp_path: Path) -> None:
    """A few steps, both files with parity to what was trained, and the resolved config in the card."""
    config = config_of(row)
    result = fit(few, config, run_folder=tmp_path / "run", device="cpu")

    exported = export(result, few, models_folder=tmp_path / "models")

    card = load_artifact(exported.folder).card
    assert FitConfig.from_dict(card.training.config) == config
    assert set(card.training.config) == {field.name for field in dataclasses.fields(FitConfig)}
    assert all(torch.tensor(record.train_loss).isfinite() for record in card.training.history)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        (name, values)
        for name, hint in get_type_hints(FitConfig).items()
        if (values := {value for part in (hint, *get_args(hint)) for value in get_args(part) if isinstance(value, str)})
    ],
)
def test_every_value_of_a_choice_is_trained(name: str, values: set[str]) -> None:
    used = {getattr(config_of(row), name) for row in ROWS.values()} - {None}

    assert used == values


def test_every_activation_has_a_layer() -> None:
    hint = get_type_hints(FitConfig)["activation"]

    assert set(get_args(get_args(hint)[0])) == set(ACTIVATIONS)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"network": "perceptron"}, "with the loss cross-entropy: what makes one layer a perceptron is the loss perc"),
        ({"network": "softmax", "loss": "hinge"}, "is the loss cross-entropy"),
        ({"loss": "squared"}, r"label_smoothing 0\.1 with the loss squared: it softens the probabilities"),
        ({"network": "mlp", "dropout": [0.1] * 4}, "dropout lists 4 layers, and 3 can have it"),
        ({"network": "mlp", "norm": "batch", "batch_size": 1}, "batch size 1: a batch of one picture has no spread"),
        ({"network": "mlp", "norm": "instance"}, "a dense layer has just one"),
        ({"network": "mlp", "norm": "group"}, "group normalisation makes 8 groups; 75 cannot be split so"),
        ({"network": "mlp", "widths": [8]}, "widths is no option of the network mlp, which has hidden, activation"),
        ({"network": "softmax", "loss": "cross-entropy", "activation": "relu"}, "which has none of these"),
        ({"activation": "maxout"}, "maxout halves the channels"),
        ({"network": "vgg", "widths": [8]}, "1 widths and 5 blocks"),
        ({"widths": [0, 8, 8]}, "must be at least 1"),
        ({"mix": "mixup", "loss": "hinge", "label_smoothing": 0}, "blended pictures have no single right class"),
        ({"mix": "cutmix", "batch_size": 1, "norm": "none"}, "there is no other picture to blend with"),
        ({"momentum": 0}, "nothing to look ahead by. Say --no-nesterov"),
        ({"init_slope": 0.1}, "init_slope is of init he, not of default"),
        ({"split_shares": [0.8, 0.3, 0.1]}, "three shares that add up to 1"),
        ({"epoch": 3}, "epoch is no option. There are: seed, num_validation"),
        ({"epochs": "many"}, "epochs: Input should be a valid integer.*not 'many'"),
        ({"activation": "swish"}, "activation: Input should be 'identity', 'sigmoid'.*not 'swish'"),
    ],
)
def test_what_does_not_go_together_is_refused(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        FitConfig.from_dict(values)


def test_the_shipped_card_is_of_the_default_network() -> None:
    """It has none of the newer choices, and means their defaults."""
    card = read_card(SHIPPED)

    config = FitConfig.from_dict(card.training.config)

    assert config == FitConfig(precision="bfloat16")
    assert sum(p.numel() for p in build_network(config).parameters()) == card.training.num_parameters


def test_a_config_survives_the_way_through_json() -> None:
    config = config_of(ROWS["mlp-sigmoid"])

    assert FitConfig.from_dict(config.to_dict()) == config
    assert config.to_dict()["dropout"] == [0.2, 0.1]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.toml")), ids=lambda path: path.stem)
def test_a_preset_is_a_config_and_says_how_it_is_used(path: Path) -> None:
    FitConfig.from_dict(load_preset(path.stem))

    opening = path.read_text().split("\n\n")[0]
    assert f"python -m training fit --preset {path.stem} " in opening


@pytest.mark.parametrize(("name", "most"), [("tiny", 100_000), ("small", 300_000)])
def test_a_small_preset_is_as_small_as_it_says(name: str, most: int) -> None:
    network = build_network(FitConfig.from_dict(load_preset(name)))

    num_parameters = sum(parameter.numel() for parameter in network.parameters())

    assert num_parameters <= most
    assert f"{num_parameters:,} weights and biases, at most {most:,}." in (FOLDER / f"{name}.toml").read_text()


def test_an_unknown_preset_says_which_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no preset resnet19\. Give a TOML file, or one of: adaline, allconv, cnn"):
        load_preset("resnet19")


def test_l2_in_the_loss_is_half_the_weight_decay(few: Splits, tmp_path: Path) -> None:
    """The derivative of l2 w^2 is 2 l2 w, that of weight decay is its factor times w."""
    plain = {"network": "mlp", "hidden": (8,), "schedule": "constant", "weight_decay": 0.0}

    def trained(name: str, **penalty: float) -> torch.Tensor:
        result = fit(few, config_of({**plain, **penalty}), run_folder=tmp_path / name, device="cpu")
        return torch.cat([p.detach().flatten() for p in result.network.parameters()])

    as_loss, as_decay, without = trained("l2", l2=0.01), trained("decay", weight_decay=0.02), trained("none")

    assert torch.allclose(as_loss, as_decay, atol=1e-5)
    assert not torch.allclose(as_loss, without, atol=1e-3)
