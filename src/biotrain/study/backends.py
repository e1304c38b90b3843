# SPDX-License-Identifier: Apache-2.0
"""Where a calibration runs: the generated C of a package, or torch. The loop over the epochs is in
`calibrate`; a back end predicts, trains one epoch, and saves and loads its weights."""

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from biotrain.errors import BioTrainError, DeviceError
from biotrain.study.labelfree import EntropyTrainer, adabn
from biotrain.study.order import shuffled
from biotrain.study.rules import REFERENCE, Rule
from biotrain.study.settings import CalibrationSettings, FinetuneSettings
from biotrain.study.task import Cost, Labelled
from biotrain.study.torch_training import EpochTrainer, finetuner, one_thread, predict
from biotrain.topology.copies import copied

if TYPE_CHECKING:
    from biotrain.package import Package

Windows = NDArray[np.float32]
"""float32 [windows, channels, time]."""
State = Mapping[str, NDArray[Any]]
"""Weights and running statistics by torch name."""


class Backend(Protocol):
    """A network that calibrates."""

    group: int
    """Windows of one optimizer step."""
    refusals: type[BioTrainError]
    """What `adabn`, `begin` and `epoch` raise where the numbers do not allow it; the weights are
    then those before the refused windows."""
    tests_after_refusal: bool
    """Whether the weights that a refusal left are tested; else the last whole epoch counts."""

    def predict(self, x: Windows) -> NDArray[np.float32]:
        """Logits [windows, classes]."""

    def adabn(self, x: Windows) -> None:
        """Re-estimate BatchNorm's running statistics from windows without labels."""

    def begin(self, material: Labelled, epochs: int, lr: float) -> None:
        """Get ready to train so many epochs over `material`, from the learning rate `lr` on."""

    def epoch(self, number: int) -> None:
        """Train over all windows once, in the order of epoch `number` (from 0)."""

    def save_state(self) -> Any:
        """A copy of all that training changes."""

    def load_state(self, state: Any) -> None:
        """Go back to what `save_state` returned."""

    def cost(self, steps: int) -> Cost:
        """What the calibration took, and the CRC-32 of the weights as they are."""

    def weights(self) -> State:
        """Weights and running statistics by torch name."""

    def close(self) -> None:
        """Give back what the back end holds."""


class DeviceBackend:
    """The generated C, on the host, in an emulator or on a board."""

    refusals: type[BioTrainError] = DeviceError
    tests_after_refusal = False

    def __init__(
        self, package: "Package", rule: Rule, settings: CalibrationSettings, seed: int
    ) -> None:
        self.package, self.rule, self.seed = package, rule, seed
        self.group = settings.group
        self._device = package.run(settings.on)
        self._material: Labelled | None = None
        self._features: NDArray[np.float32] | None = None

    def load_weights(self, weights: State) -> None:
        """Start from the weights that an earlier session left."""
        self._device.load_parameters(weights)

    def predict(self, x: Windows) -> NDArray[np.float32]:
        """See `Backend`."""
        return self._device.predict(x)

    def adabn(self, x: Windows) -> None:
        """See `Backend`."""
        self._device.adabn(x)

    def begin(self, material: Labelled, epochs: int, lr: float) -> None:
        """See `Backend`."""
        self._material = material
        self._device.begin(total_steps=epochs * -(-len(material.x) // self.group), lr=lr)

    def epoch(self, number: int) -> None:
        """See `Backend`. Layers that do not train run once, in the first epoch, and the others
        train on their outputs: the same bits, sooner."""
        assert self._material is not None
        x, y = self._material.x, self._material.y
        order = shuffled(len(x), self.seed, number)
        if not self.package.plan.feature_bytes:
            self._device.train(x[order], y[order])
            return
        if self._features is None:
            self._features = self._device.features(x)
        self._device.train_features(self._features[order], y[order])

    def save_state(self) -> Any:
        """See `Backend`."""
        return self._device.save_state()

    def load_state(self, state: Any) -> None:
        """See `Backend`."""
        self._device.load_state(state)

    def cost(self, steps: int) -> Cost:
        """See `Backend`."""
        plan = self.package.plan
        ops = plan.adabn_ops if self.rule.trains == "adabn" else plan.ops
        return Cost(plan.ram_bytes, ops, steps, self._device.crc32())

    def weights(self) -> State:
        """See `Backend`."""
        return dict(self._device.parameters())

    def close(self) -> None:
        """See `Backend`."""
        self._device.close()


class TorchBackend:
    """A copy of a module in torch, trained by one of the rules of IN_TORCH."""

    refusals: type[BioTrainError] = BioTrainError
    tests_after_refusal = True

    def __init__(
        self, start: nn.Module, rule: Rule, settings: CalibrationSettings, seed: int
    ) -> None:
        self.rule, self.settings, self.seed = rule, settings, seed
        self.group = settings.accumulate
        self._module = copied(start)
        self._trainer: EpochTrainer | None = None

    def load_weights(self, weights: State) -> None:
        """Start from the weights that an earlier session left."""
        self._module.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in weights.items()})

    @one_thread()
    def predict(self, x: Windows) -> NDArray[np.float32]:
        """See `Backend`."""
        return predict(self._module, x)

    def adabn(self, x: Windows) -> None:
        """See `Backend`."""
        adabn(self._module, x)

    def begin(self, material: Labelled, epochs: int, lr: float) -> None:
        """See `Backend`."""
        how = self.settings
        if self.rule.trains == REFERENCE:
            conventional = FinetuneSettings(
                epochs=epochs,
                lr=lr,
                momentum=how.momentum,
                weight_decay=how.weight_decay,
                schedule=how.schedule,
                batch=self.group,
                seed=self.seed,
            )
            self._trainer = finetuner(self._module, material.x, material.y, conventional)
        else:
            self._trainer = EntropyTrainer(
                self._module,
                material.x,
                lr=lr,
                momentum=how.momentum,
                batch=self.group,
                seed=self.seed,
            )

    def epoch(self, number: int) -> None:
        """See `Backend`."""
        assert self._trainer is not None
        self._trainer.epoch(number)

    def save_state(self) -> Any:
        """See `Backend`."""
        return copy.deepcopy(self._module.state_dict())

    def load_state(self, state: Any) -> None:
        """See `Backend`."""
        self._module.load_state_dict(state)

    def cost(self, steps: int) -> Cost:
        """See `Backend`; nothing is compiled, so only the steps are known."""
        return Cost(None, None, steps, None)

    def weights(self) -> State:
        """See `Backend`."""
        return {k: v.numpy().copy() for k, v in self._module.state_dict().items()}

    def close(self) -> None:
        """See `Backend`."""
