"""Weighted votes: by hand, fitted against scipy, kept in checkpoints, and fitted on validation data only."""

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from scipy.optimize import minimize
from scipy.special import logsumexp

from intff_lightning.errors import ConfigurationError
from intff_lightning.local import ChannelGoodness, LabelCrossEntropy
from intff_lightning.module import IntFFModule
from intff_lightning.voting import fit_weights


def test_the_vote_is_the_weighted_sum(network):
    module, image = network([6], [6], [6], vote=[0, 2], vote_weights=[0.5, 2.0]), torch.rand(5, 1, 4, 5)
    g = module.label_goodness(image)
    torch.testing.assert_close(module(image), 0.5 * g[0] + 2 * g[2])
    plain = network([6], [6], vote=[0, 1])
    assert torch.equal(plain(image), plain.label_goodness(image).sum(0))


def test_fitted_weights_are_scipys_best():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(3, 400, 5))
    target = (3 * logits[0] + 0.5 * logits[1] + generator.gumbel(size=(400, 5))).argmax(1)  # unit 2 knows nothing
    rows = np.arange(400)

    def loss(log):
        mixed = np.tensordot(np.exp(log), logits, 1)
        return (logsumexp(mixed, 1) - mixed[rows, target]).mean() + 1e-4 * (log**2).sum()

    expected = np.exp(minimize(loss, np.zeros(3), tol=1e-12).x)
    true = np.zeros((400, 5), dtype=bool)
    true[rows, target] = True
    positive, negative = logits[:, true], logits[:, ~true].reshape(3, 400, 4)
    found = fit_weights(torch.tensor(positive), torch.tensor(negative)).numpy()
    np.testing.assert_allclose(found[:2], expected[:2], rtol=1e-3)
    assert found[0] > 2
    assert max(found[2], expected[2]) < 0.1
    finite = fit_weights(torch.ones(2, 30), -torch.ones(2, 30, 3))  # every label is predicted
    assert finite.isfinite().all()


def _fitting(network):
    torch.manual_seed(0)
    return network([9], [9], goodness=ChannelGoodness(), loss=LabelCrossEntropy(), vote_weights="validation")


def test_weights_come_from_validation_data_and_are_in_the_checkpoint(network, batches, trainer):
    module, run = _fitting(network), trainer(max_epochs=2, num_sanity_val_steps=2)
    run.fit(module, batches(count=3), batches(count=4, seed=2))
    image, target = (torch.cat([getattr(b, name) for b in batches(count=4, seed=2)]) for name in ("image", "target"))
    goodness = module.eval().label_goodness(image).detach()
    true = torch.nn.functional.one_hot(target, 3).bool()
    expected = fit_weights(goodness[:, true], goodness[:, ~true].view(2, -1, 2))
    torch.testing.assert_close(module.fitted_vote, expected, rtol=1e-3, atol=1e-4)
    run.save_checkpoint("vote.ckpt")
    again = IntFFModule.load_from_checkpoint("vote.ckpt").eval()
    assert torch.equal(again(image), module(image))
    before = module.fitted_vote.clone()
    run.validate(module, batches(count=2, seed=5), verbose=False)
    run.test(module, batches(count=2, seed=6), verbose=False)
    assert torch.equal(module.fitted_vote, before)


@pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback")
def test_what_cannot_vote_is_refused(network, batches, trainer):
    with pytest.raises(ConfigurationError, match="3 vote_weights for the 2 voting units"):
        network([6], [6], vote_weights=[1.0, 2.0, 3.0])
    with pytest.raises(ConfigurationError, match="numbers of 0 or more"):
        network([6], [6], vote_weights=[1.0, -2.0])
    with pytest.raises(ConfigurationError, match="not all 0"):
        network([6], [6], vote_weights=[0.0, 0.0])
    for weight in (float("nan"), float("inf")):
        with pytest.raises(ConfigurationError, match="numbers of 0 or more"):
            network([6], [6], vote_weights=[1.0, weight])
    with pytest.raises(ConfigurationError, match="leave vote_weights out"):
        network([6], [6], vote_weights=[1.0, 2.0]).positive_probability(torch.rand(2, 1, 4, 5))
    with pytest.raises(ConfigurationError, match="this run has no validation"):
        trainer().fit(network([6], [6], vote_weights="validation"), batches())
    with pytest.raises(ConfigurationError, match="weight averaging would lose the votes"):
        trainer(callbacks=[EMAWeightAveraging()]).fit(
            network([6], [6], vote_weights="validation"), batches(), batches()
        )
    with pytest.raises(ConfigurationError, match="needs wrong labels"):
        trainer().fit(network([6], [6], vote_weights="validation"), batches(), batches(k=0))
