"""A checkpoint is sufficient by itself, written whole, refused where it does not fit, and resumed exactly."""

import functools
import os
import signal
from pathlib import Path

import lightning as L
import pytest
import torch
from conftest import save_blank_figures
from torch import nn

from intff_lightning import DenseUnit, HiddenUnit, IntFFModule, LabelOverlay
from intff_lightning.augmentations import RandomShift
from intff_lightning.callbacks import BestCheckpoint, GoodnessLogger, LinearProbe
from intff_lightning.checkpoints import AtomicCheckpointIO
from intff_lightning.cli import main
from intff_lightning.datamodules import DigitsDataModule
from intff_lightning.errors import CheckpointError
from intff_lightning.local import RMS, MeanSquares, SoftplusLoss, UnitL2
from intff_lightning.optim import CosineDecay


def _module(**options):
    units = [
        DenseUnit([20, 10], normalization=UnitL2(5.0), activation="GELU"),
        DenseUnit([8], normalization=RMS(), goodness=MeanSquares([0, 3]), loss=SoftplusLoss(1.0)),
    ]
    return IntFFModule(units, **options)


def test_reload_from_python_needs_no_arguments(digits, trainer):
    module = _module(
        encoder=LabelOverlay(intensity=0.7),
        optimizer=functools.partial(torch.optim.Adam, lr=0.01),
        vote=[1],
        inner_steps=2,
    )
    run = trainer()
    run.fit(module, digits())
    run.save_checkpoint("a.ckpt")
    image = digits().dataset("test").image
    torch.manual_seed(77)
    loaded = IntFFModule.load_from_checkpoint("a.ckpt")
    assert torch.equal(loaded(image), module(image))
    assert loaded.encoder.intensity == 0.7
    assert loaded.inner_steps == 2
    assert isinstance(loaded.optimizer_factory([nn.Parameter(torch.zeros(1))]), torch.optim.Adam)
    again = trainer()  # and it trains on, and saves again
    again.fit(loaded, digits())
    again.save_checkpoint("b.ckpt")
    assert torch.equal(IntFFModule.load_from_checkpoint("b.ckpt")(image), loaded(image))


@pytest.mark.slow
def test_reload_in_another_process(digits, trainer, forks):
    module = _module()
    run = trainer()
    run.fit(module, digits())
    run.save_checkpoint("a.ckpt")
    Path("reload.py").write_text(
        "import torch; from intff_lightning import IntFFModule\n"
        "module = IntFFModule.load_from_checkpoint('a.ckpt')\n"
        "torch.save(module(torch.linspace(0, 1, 300).view(3, 1, 10, 10)).detach(), 'scores.pt')"
    )
    group = forks.start(Path("reload.py").absolute(), count=1)
    assert group.wait() == [0], group.output
    expected = module(torch.linspace(0, 1, 300).view(3, 1, 10, 10)).detach()
    assert torch.equal(torch.load("scores.pt"), expected)


def test_a_subclass_with_arguments_of_its_own(digits, trainer):
    run = trainer()
    run.fit(Subclass(units=[DenseUnit([5])], extra=3), digits())
    run.save_checkpoint("a.ckpt")
    assert Subclass.load_from_checkpoint("a.ckpt").extra == 3


class Subclass(IntFFModule):
    def __init__(self, extra=1, **options):
        super().__init__(**options)
        self.extra = extra


def test_a_body_without_a_recipe_needs_units(digits, trainer):
    def units():
        return [HiddenUnit(nn.Sequential(nn.Flatten(), nn.Linear(100, 6), nn.ReLU()))]

    module = IntFFModule(units())
    run = trainer()
    run.fit(module, digits())
    run.save_checkpoint("a.ckpt")
    with pytest.raises(CheckpointError, match=r"(?s)does not record.*units=\[\.\.\.\]"):
        IntFFModule.load_from_checkpoint("a.ckpt")
    image = torch.rand(4, 1, 10, 10)
    assert torch.equal(IntFFModule.load_from_checkpoint("a.ckpt", units=units())(image), module(image))


def test_another_architecture_is_refused(digits, trainer):
    run = trainer()
    run.fit(_module(), digits())
    run.save_checkpoint("a.ckpt")
    other = IntFFModule([DenseUnit([20, 11]), DenseUnit([8])])
    with pytest.raises(
        CheckpointError, match=r"another network: units\.0\.body\.2\.0\.bias is \(10,\) there, and \(11,\)"
    ):
        trainer(max_epochs=2).fit(other, digits(), ckpt_path="a.ckpt")
    fewer = IntFFModule([DenseUnit([20, 10])])
    with pytest.raises(CheckpointError, match=r"units\.1\..* missing"):
        trainer(max_epochs=2).fit(fewer, digits(), ckpt_path="a.ckpt")


def test_a_recipe_builds_network_parts_only():
    from intff_lightning.recipe import from_recipe

    with pytest.raises(CheckpointError, match="not a part of a network"):
        from_recipe({"class_path": "subprocess.Popen", "init_args": {"args": "true"}})
    with pytest.raises(CheckpointError, match="cannot be imported"):
        from_recipe({"class_path": "intff_lightning.units.NoSuchUnit", "init_args": {}})


class _Stop(L.Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            trainer.save_checkpoint("middle.ckpt")
            raise InterruptedError

    def on_validation_end(self, trainer, pl_module):
        if self.step is None and not trainer.sanity_checking:
            trainer.save_checkpoint("middle.ckpt")
            raise InterruptedError


# in the first epoch, at its end, in the second, after the first one's validation
@pytest.mark.parametrize("step", [7, 19, 30, None])
def test_a_run_resumed_in_the_middle_ends_with_the_same_bits(step, trainer):
    def run(epochs=3, callbacks=(), ckpt_path=None):
        torch.manual_seed(0)
        module = IntFFModule(
            [DenseUnit([20, 10], activation="RReLU"), DenseUnit([8])],  # of random slope, as random as dropout
            optimizer=functools.partial(torch.optim.Adam, lr=0.01),
            scheduler=CosineDecay,
        )
        data = DigitsDataModule(batch_size=64, seed=3, augmentation=RandomShift(1))
        run = trainer(max_epochs=epochs, callbacks=[GoodnessLogger(), *callbacks], log_every_n_steps=8)
        run.fit(module, data, ckpt_path=ckpt_path)
        states = [o.state_dict()["state"] for o in run.optimizers]
        return {
            **module.state_dict(),
            **{f"state {k} {i} {n}": v for k, s in enumerate(states) for i, p in s.items() for n, v in p.items()},
            **run.callback_metrics,
            **{f"rate {k}": torch.tensor(o.param_groups[0]["lr"]) for k, o in enumerate(module.optimizers())},
        }

    whole = run()
    with pytest.raises(InterruptedError):
        run(callbacks=[_Stop(step)])
    torch.manual_seed(123)
    resumed = run(ckpt_path="middle.ckpt")
    assert {"train/loss", "train/loss/unit_0", "goodness/negative/unit_1", "val/loss"} <= whole.keys()
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []


def test_a_longer_run_goes_on_along_the_longer_schedule(digits, trainer):
    class Rates(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            rates.append(pl_module.optimizers()[0].param_groups[0]["lr"])

    def run(epochs, ckpt_path=None):
        rates.clear()
        module = _module(optimizer=functools.partial(torch.optim.Adam, lr=0.01), scheduler=CosineDecay)
        run = trainer(max_epochs=epochs, callbacks=[Rates()])
        run.fit(module, digits(), ckpt_path=ckpt_path)
        return run, list(rates)

    rates = []
    whole = run(4)[1]
    short, decayed = run(2)
    short.save_checkpoint("short.ckpt")
    longer = run(4, "short.ckpt")[1]
    assert decayed[-1] < 0.1 * whole[len(decayed) - 1]
    assert longer == pytest.approx(whole[len(decayed) :])


def test_a_probe_survives_a_resume(digits, trainer):
    def run(ckpt_path=None, epochs=2):
        torch.manual_seed(0)
        probe = LinearProbe(every_n_epochs=1, epochs=2)
        run = trainer(max_epochs=epochs, callbacks=[probe], num_sanity_val_steps=0)
        run.fit(IntFFModule([DenseUnit([10])]), digits(seed=0), ckpt_path=ckpt_path)
        run.save_checkpoint(f"{epochs}.ckpt")
        return probe.layer.state_dict(), run.callback_metrics["val/probe_accuracy"]

    run(epochs=1)
    resumed, resumed_accuracy = run(ckpt_path="1.ckpt")
    whole, accuracy = run()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert accuracy == resumed_accuracy


def test_a_failed_save_leaves_the_old_file(tmp_path):
    target = tmp_path / "a.ckpt"
    AtomicCheckpointIO().save_checkpoint({"value": 1}, target)
    with pytest.raises(Exception, match="pickle"):
        AtomicCheckpointIO().save_checkpoint({"value": lambda: 1}, target)
    assert torch.load(target) == {"value": 1}
    assert os.listdir(tmp_path) == ["a.ckpt"]


def test_of_equal_epochs_the_latest_is_kept(trainer):
    class Same(L.Callback):
        def on_validation_epoch_end(self, trainer, pl_module):
            value = [0.5, 0.9, 0.9, 0.8][trainer.current_epoch] if not trainer.sanity_checking else 0.0
            pl_module.log("val/accuracy", value)

    best = BestCheckpoint()
    run = trainer(max_epochs=4, enable_checkpointing=True, callbacks=[Same(), best])
    run.fit(IntFFModule([DenseUnit([5])]), DigitsDataModule())
    assert torch.load(best.best_model_path, weights_only=True)["epoch"] == 2
    assert best.best_model_score == pytest.approx(0.9)


CONFIG = """
trainer: {{max_epochs: {epochs}, accelerator: cpu}}
model:
  class_path: IntFFModule
  init_args:
    units:
      - class_path: DenseUnit
        init_args:
          widths: [20, 10]
          goodness: {{class_path: MeanSquares, init_args: {{selected: [0, 1, 2]}}}}
          loss: {{class_path: SoftplusLoss, init_args: {{threshold: 1.0}}}}
          normalization: {{class_path: RMS, init_args: {{gain: 2.0}}}}
          scheduler: {{class_path: torch.optim.lr_scheduler.OneCycleLR, init_args: {{max_lr: 0.02}}}}
      - class_path: HiddenUnit
        init_args:
          body: {{class_path: torch.nn.Linear, init_args: {{in_features: 10, out_features: 5}}}}
          optimizer: {{class_path: torch.optim.SGD, init_args: {{lr: 0.1}}}}
    optimizer: {{class_path: torch.optim.AdamW, init_args: {{lr: 0.01}}}}
    scheduler: {{class_path: CosineDecay}}
data: {{class_path: DigitsDataModule, init_args: {{batch_size: 64, pad: 2}}}}
"""


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A checkpoint from the command line, with a body of torch's own."""
    folder = tmp_path_factory.mktemp("fitted")
    (folder / "c.yaml").write_text(CONFIG.format(epochs=1))
    with pytest.MonkeyPatch.context() as patch:
        save_blank_figures(patch)
        assert main(["fit", "--config", str(folder / "c.yaml"), "--trainer.default_root_dir", str(folder)]) == 0
    return folder / "lightning_logs/version_0/checkpoints/best.ckpt"


def test_reload_from_the_command_lines_checkpoint(fitted):
    module = IntFFModule.load_from_checkpoint(fitted)
    assert isinstance(module.units[1].body, nn.Linear)
    assert module.units[0].goodness.selected == [0, 1, 2]
    assert module.units[0].loss.threshold == 1.0
    assert module.units[0].normalization.gain == 2.0
    factories = torch.load(fitted, weights_only=True)["recipes"]["model"]["init_args"]
    assert factories["units"][0]["init_args"]["scheduler"]["class_path"].endswith("OneCycleLR")
    assert factories["optimizer"]["class_path"].endswith("AdamW")
    image = torch.rand(3, 1, 12, 12)
    assert torch.equal(IntFFModule.load_from_checkpoint(fitted)(image), module(image))


@pytest.mark.parametrize("command", ["predict", "test", "validate"])
@pytest.mark.usefixtures("blank_figures")
def test_commands_from_a_checkpoint_alone(command, fitted, capsys):
    assert main([command, "--ckpt_path", str(fitted)]) == 0
    assert capsys.readouterr().err == ""


def test_predict_equals_the_module(fitted, capsys):
    assert main(["predict", "--ckpt_path", str(fitted), "--data.batch_size", "50"]) == 0
    header, *rows = Path(capsys.readouterr().out.split()[-1]).read_text().splitlines()
    assert header == "index,label," + ",".join(f"score_{c}" for c in range(10))
    table = torch.tensor([[float(cell) for cell in row.split(",")] for row in rows], dtype=torch.float64)
    module = IntFFModule.load_from_checkpoint(fitted)
    scores = module(DigitsDataModule(pad=2).dataset("test").image)
    assert table[:, 0].tolist() == list(range(360))
    assert table[:, 1].tolist() == scores.argmax(1).tolist()
    torch.testing.assert_close(table[:, 2:].float(), scores, rtol=1e-6, atol=1e-6)


def test_options_beat_the_checkpoints_recipe(fitted, capsys):
    assert main(["fit", "--ckpt_path", str(fitted), "--trainer.max_epochs", "1", "--model.vote", "[3]"]) == 1
    assert "vote=[3]: units are numbered 0 to 1" in capsys.readouterr().err


def test_a_damaged_checkpoint(fitted, tmp_path, capsys):
    (tmp_path / "half.ckpt").write_bytes(fitted.read_bytes()[:2000])
    assert main(["test", "--ckpt_path", str(tmp_path / "half.ckpt")]) == 1
    assert "half.ckpt is not a checkpoint, or is damaged" in capsys.readouterr().err
    assert main(["test", "--ckpt_path", "none.ckpt"]) == 1
    assert "there is no file none.ckpt" in capsys.readouterr().err


@pytest.mark.slow
def test_ctrl_c_keeps_a_checkpoint(tmp_path, forks):
    (tmp_path / "c.yaml").write_text(CONFIG.format(epochs=1000))
    group = forks.start("intff_lightning", "fit", "--config", "c.yaml", count=1)
    group.written("epoch 3/")
    os.kill(group.pids[0], signal.SIGINT)
    assert group.wait() == [130]
    assert "interrupted" in group.output
    assert "Traceback" not in group.output
    kept = torch.load("lightning_logs/version_0/checkpoints/last.ckpt", weights_only=True)
    assert kept["epoch"] >= 2
    IntFFModule.load_from_checkpoint("lightning_logs/version_0/checkpoints/last.ckpt")
