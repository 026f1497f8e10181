"""The Trainer's flags under N optimizers: accumulation, clipping, precision, compilation, strategies."""

import functools
import itertools

import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import FSDPStrategy
from torch.utils.data import DataLoader

from intff_lightning import PairedBatch
from intff_lightning.errors import ConfigurationError
from intff_lightning.optim import CosineDecay

SGD = functools.partial(torch.optim.SGD, lr=0.5, momentum=0.9)


def _loader(batches):
    return DataLoader(batches, batch_size=None)


def _joined(batches, count):
    """Every ``count`` batches as one."""
    parts = [batches[i : i + count] for i in range(0, len(batches), count)]
    fields = [[None if field[0] is None else torch.cat(field) for field in zip(*part, strict=True)] for part in parts]
    return [PairedBatch(*field) for field in fields]


@pytest.mark.parametrize("update", ["immediate", "joint"])
def test_accumulated_batches_are_one_batch(update, network, batches, trainer):
    small = list(batches(6, dtype=torch.float64))
    weights = []
    for data, every in ((small, 3), (_joined(small, 3), 1)):
        torch.manual_seed(0)
        module = network(update=update, optimizer=SGD, scheduler=CosineDecay).double()
        run = trainer(precision="64-true", accumulate_grad_batches=every)
        run.fit(module, _loader(data))
        assert run.global_step == 2
        assert run.accumulate_grad_batches == every
        assert module.unit_optimizers()[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)  # the cosine's end
        weights.append([parameter.detach() for parameter in module.parameters()])
    for accumulated, whole in zip(*weights, strict=True):
        torch.testing.assert_close(accumulated, whole, rtol=1e-12, atol=1e-14)


def test_an_epochs_last_batches_make_a_step_of_their_own(network, batches, trainer):
    run = trainer(accumulate_grad_batches=2, max_epochs=2)
    run.fit(network(), batches(5))
    assert run.global_step == 6


def test_accumulation_needs_steps_that_can_wait(network, batches, trainer):
    for options in ({"inner_steps": 2}, {"handover": "after"}):
        with pytest.raises(ConfigurationError, match="accumulate_grad_batches=2"):
            trainer(accumulate_grad_batches=2).fit(network(**options), batches(4))


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_the_trainers_clipping_is_the_modules(algorithm, network, batches, trainer):
    weights = []
    for of_trainer in (True, False):
        torch.manual_seed(0)
        flags = {"gradient_clip_val": 1e-3, "gradient_clip_algorithm": algorithm}
        module = network(optimizer=SGD, **({} if of_trainer else flags))
        trainer(**(flags if of_trainer else {})).fit(module, batches(4))
        weights.append(torch.cat([parameter.detach().flatten() for parameter in module.parameters()]))
    torch.manual_seed(0)
    unclipped = network(optimizer=SGD)
    trainer().fit(unclipped, batches(4))
    assert torch.equal(*weights)
    assert not torch.equal(weights[0], torch.cat([p.detach().flatten() for p in unclipped.parameters()]))


def test_a_trainer_can_be_used_again(network, batches, trainer):
    run = trainer(accumulate_grad_batches=2, gradient_clip_val=0.1, max_epochs=1)
    for _ in range(2):
        module = network()
        run.fit_loop.epoch_progress.reset()
        run.fit(module, batches(4))
        assert (run.accumulate_grad_batches, run.gradient_clip_val) == (2, 0.1)


def _scaled(growth_interval=3):
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=growth_interval)
    return MixedPrecision("16-mixed", "cpu", scaler), scaler


@pytest.mark.parametrize(("update", "inner_steps"), [("immediate", 1), ("joint", 1), ("immediate", 3)])
def test_the_gradient_scale_is_that_of_one_optimizer(update, inner_steps, network, batches, trainer):
    plugin, scaler = _scaled()
    scales = []

    class Watched(type(network())):
        def on_train_batch_end(self, *_):
            scales.append(scaler.get_scale())

    module = network([7, 6], [5], [4], [3], update=update, inner_steps=inner_steps, optimizer=SGD)
    module.__class__ = Watched
    run = trainer(plugins=[plugin])
    run.fit(module, batches(8))
    assert scales == [1024.0 * 2 ** (n // 3) for n in range(1, 9)]
    assert run.global_step == 8
    assert all(parameter.isfinite().all() for parameter in module.parameters())


def test_infinite_gradients_skip_their_unit_and_lower_the_scale_once(network, batches, trainer):
    plugin, scaler = _scaled(growth_interval=100)
    module = network([7], [6], [5], [4], optimizer=SGD)
    before = [[p.detach().clone() for p in unit.parameters()] for unit in module.units]
    next(module.units[1].parameters()).register_hook(lambda gradient: gradient.fill_(torch.inf))
    trainer(plugins=[plugin]).fit(module, batches(1))
    moved = [
        any(not torch.equal(a, b) for a, b in zip(old, unit.parameters(), strict=True))
        for old, unit in zip(before, module.units, strict=True)
    ]
    assert moved == [True, False, True, True]
    assert scaler.get_scale() == 512.0


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_half_precision_stays_near_single(precision, network, batches, trainer):
    losses = []
    for plugins in ([], [MixedPrecision(precision, "cpu", _scaled()[1] if precision == "16-mixed" else None)]):
        torch.manual_seed(0)
        module = network([16, 12], [8], optimizer=functools.partial(torch.optim.Adam, lr=1e-2))
        run = trainer(plugins=plugins, max_epochs=5, log_every_n_steps=1)
        run.fit(module, batches(4))
        losses.append(float(run.callback_metrics["train/loss"]))
        goodness = module.goodness(module.encoder.positive(next(iter(batches()))))
        assert goodness.dtype == torch.float32
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_compiled_units_learn_the_same_and_their_checkpoint_needs_no_compiler(network, batches, trainer, monkeypatch):
    calls = itertools.count()

    def compiled(function, **_):
        next(calls)
        return torch._dynamo.optimize("eager", nopython=True)(function)  # no graph break, and no C++ compiler

    monkeypatch.setattr(torch, "compile", compiled)
    modules = []
    for compile_units in (False, True):
        torch.manual_seed(0)
        module = network(optimizer=SGD, compile=compile_units)
        run = trainer()
        run.fit(module, batches(4))
        run.save_checkpoint(f"{compile_units}.ckpt")
        modules.append(module)
    assert next(calls) == 2
    plain, same = (dict(module.state_dict()) for module in modules)
    assert plain.keys() == same.keys()
    for name, weight in plain.items():
        torch.testing.assert_close(same[name], weight)
    loaded = type(module).load_from_checkpoint("True.ckpt", compile=False)
    image = torch.rand(3, 1, 4, 5)
    torch.testing.assert_close(loaded(image), modules[0](image))


def test_sharding_strategies_are_refused_in_a_line_that_says_what_to_do(network, batches, trainer):
    run, module = trainer(), network()
    # a real one cannot be had without a GPU
    members = {"accelerator": run.strategy.accelerator, "teardown": lambda self: None}
    run.strategy.__class__ = type("FSDPStrategy", (FSDPStrategy,), members)
    with pytest.raises(ConfigurationError, match=r"FSDPStrategy takes one optimizer.*\n.*--trainer.strategy ddp"):
        run.fit(module, batches(1))
