"""The backpropagation baseline against a plain PyTorch loop, and through every door of the package."""

import functools
from pathlib import Path

import pytest
import torch
from torch import nn

from intff_lightning import BackpropModule, DenseUnit
from intff_lightning.callbacks import GoodnessAccuracy
from intff_lightning.cli import main
from intff_lightning.errors import CheckpointError, ConfigurationError, DivergenceError
from intff_lightning.local import NoNormalization
from intff_lightning.optim import CosineDecay


def _module(**options):
    defaults = {"optimizer": functools.partial(torch.optim.Adam, lr=1e-2)}
    return BackpropModule(DenseUnit([30, 20], normalization=NoNormalization()), **{**defaults, **options})


def test_equal_to_a_plain_loop(digits, trainer):
    data = digits(seed=0)
    module = _module(input_shape=[1, 10, 10], num_classes=10, scheduler=CosineDecay)
    layers = [nn.Flatten(), nn.Linear(100, 30), nn.ReLU(), nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 10)]
    plain = nn.Sequential(*layers)
    plain.load_state_dict(dict(zip(plain.state_dict(), module.state_dict().values(), strict=True)))
    batches = []

    class Keep(BackpropModule):
        def training_step(self, batch, batch_idx):
            batches.append((batch.image, batch.target))
            return super().training_step(batch, batch_idx)

    module.__class__ = Keep
    run = trainer(max_epochs=2)
    run.fit(module, data)
    optimizer = torch.optim.Adam(plain.parameters(), lr=1e-2)
    schedule = CosineDecay(optimizer, total_steps=len(batches))
    for image, target in batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(plain(image), target).backward()
        optimizer.step()
        schedule.step()
    assert run.global_step == len(batches)
    for ours, theirs in zip(module.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_it_learns_and_its_accuracy_is_logged_under_the_same_names(digits, trainer):
    module, accuracy = _module(), GoodnessAccuracy()
    run = trainer(max_epochs=8, callbacks=[accuracy])
    run.fit(module, digits())
    (metrics,) = run.test(module, digits(), verbose=False)
    assert metrics["test/accuracy"] > 0.9
    data = digits().dataset("test")
    module.eval()
    right = (module(data.image).argmax(1) == data.target).float().mean()
    assert metrics["test/accuracy"] == pytest.approx(float(right))
    assert not [name for name in metrics if "unit" in name]


def test_any_body_and_a_head_of_its_own(digits, trainer):
    convolution = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2))
    module = BackpropModule(convolution, input_shape=[1, 10, 10], num_classes=10)
    assert module(torch.rand(3, 1, 10, 10)).shape == (3, 10)
    trainer(max_steps=2).fit(module, digits())
    own = BackpropModule(nn.Sequential(nn.Flatten(), nn.Linear(100, 10)), head=False)
    trainer(max_steps=2).fit(own, digits())
    assert own(torch.rand(3, 1, 10, 10)).shape == (3, 10)
    with pytest.raises(ConfigurationError, match=r"outputs have shape \(7,\)"):
        BackpropModule(
            nn.Sequential(nn.Flatten(), nn.Linear(100, 7)), head=False, input_shape=[1, 10, 10], num_classes=10
        )
    with pytest.raises(ConfigurationError, match="body is 3"):
        BackpropModule(3)


def test_divergence_is_said(digits, trainer):
    module = _module(optimizer=functools.partial(torch.optim.SGD, lr=1e30))
    with pytest.raises(DivergenceError, match="the network diverged"):
        trainer(max_epochs=3).fit(module, digits())


CONFIG = """
trainer: {max_epochs: 3}
model:
  class_path: BackpropModule
  init_args:
    body: {class_path: DenseUnit, init_args: {widths: [40, 20], normalization: {class_path: NoNormalization}}}
    optimizer: {class_path: torch.optim.Adam, init_args: {lr: 0.01}}
    scheduler: {class_path: CosineDecay}
data:
  class_path: DigitsDataModule
  init_args:
    batch_size: 32
    corruption: {class_path: GaussianPixels, init_args: {rate: 0.5}}
"""


@pytest.mark.slow
@pytest.mark.usefixtures("blank_figures")
def test_from_the_command_line_to_its_checkpoint_and_back(capsys):
    Path("bp.yaml").write_text(CONFIG)
    assert main(["fit", "--config", "bp.yaml"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "dense 100-40-20 ReLU" in printed.out
    assert "goodness" not in printed.out  # it has none
    assert Path("lightning_logs/version_0/figures/loss.png").is_file()
    best = "lightning_logs/version_0/checkpoints/best.ckpt"
    assert main(["test", "--ckpt_path", best]) == 0
    assert printed.out.split("network │")[-1].split("│")[1] in capsys.readouterr().out  # the same accuracy
    assert main(["predict", "--ckpt_path", best]) == 0
    module = BackpropModule.load_from_checkpoint(best)
    assert module.hparams["num_classes"] == 10
    other = _module(input_shape=[1, 10, 10], num_classes=10)
    with pytest.raises(CheckpointError, match="another network"):
        other.load_state_dict(torch.load(best, weights_only=True)["state_dict"])
