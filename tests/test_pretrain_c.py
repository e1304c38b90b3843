# SPDX-License-Identifier: Apache-2.0
"""Pretraining in the generated C against torch in float64, with the same dropouts."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import biotrain.study as study
from biotrain.errors import BioTrainError
from biotrain.models import EpiDeNet
from biotrain.study.pretrain_c import WEIGHT_DECAY, Masked, batches, train_in_c


@pytest.fixture(scope="module")
def rec() -> study.Recordings:
    return study.generate("emg", subjects=3, sessions=1, trials=8)


def network(norm: str, rec: study.Recordings, pool: str = "avg") -> nn.Module:
    torch.manual_seed(3)
    shape = {"n_chans": rec.n_chans, "n_times": rec.n_times, "n_outputs": rec.n_classes}
    return EpiDeNet(**shape, sfreq=rec.fs, norm=norm, pool=pool)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_the_c_pretrains_as_torch_does(norm: str, rec: study.Recordings) -> None:
    """Two epochs with dropout and a last batch that is not full; BatchNorm's running statistics
    too, also where one window has one value per channel."""
    x, y = rec.signal(np.arange(44)), rec.y[:44]
    net = network(norm, rec)
    reference = copy.deepcopy(net).double()
    masked = Masked(reference.train(), torch.from_numpy(x[:1]).double())
    optimizer = torch.optim.AdamW(masked.parameters(), lr=1e-3, weight_decay=WEIGHT_DECAY)
    for epoch in range(2):
        for windows, labels in batches(masked, x, y, 16, 5, epoch):
            for first in range(0, len(windows), 16):
                part = slice(first, first + 16)
                logits = masked(torch.from_numpy(windows[part]).double())
                loss = nn.functional.cross_entropy(logits, torch.from_numpy(labels[part]))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    masked.restore()
    train_in_c(net, x, y, study.PretrainSettings(epochs=2, lr=1e-3, batch=16, seed=5))
    names = [type(m).__name__ for m in net.modules()]
    assert "Dropout" in names
    assert "_Mask" not in names
    for (name, ours), theirs in zip(
        net.state_dict().items(), reference.state_dict().values(), strict=True
    ):
        if ours.dtype == torch.float32:
            error = float((ours - theirs).abs().max() / theirs.abs().max())
            assert error < 3e-4, (name, error)


def test_masks_are_dropouts(rec: study.Recordings) -> None:
    net = network("group", rec)
    masked = Masked(net, torch.from_numpy(rec.signal(np.arange(1))))
    drawn = masked.masks(4000, np.random.default_rng(0)).reshape(4000, -1)[:, : masked.size]
    assert masked.size == 16
    assert set(np.unique(drawn)) == {0.0, 2.0}
    assert abs(drawn.mean() - 1) < 0.02
    assert not np.array_equal(drawn[0], drawn[1])


def test_what_c_cannot_pretrain_goes_to_torch(rec: study.Recordings) -> None:
    def factory(**shape: object) -> nn.Module:
        net = EpiDeNet(**shape)  # type: ignore[arg-type]
        net.drop = nn.AlphaDropout(0.1)
        return net

    idx = np.arange(24)
    trained = study.pretrain(rec, factory, idx, epochs=1)
    same = study.pretrain(rec, factory, idx, epochs=1, engine="torch")
    for ours, theirs in zip(trained.state_dict().values(), same.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    with pytest.raises(BioTrainError, match="AlphaDropout"):
        study.pretrain(rec, factory, idx, epochs=1, engine="c")
    with pytest.raises(BioTrainError, match="auto, c, torch"):
        study.pretrain(rec, factory, idx, epochs=1, engine="gpu")
