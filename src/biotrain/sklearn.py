# SPDX-License-Identifier: Apache-2.0
"""A scikit-learn classifier whose fit, partial_fit and predict run the generated C.

    from biotrain.sklearn import DeviceClassifier
    clf = DeviceClassifier("eegnet", sfreq=250.0, target="nrf52840", memory="256KiB")
    cross_val_score(clf, epochs_data, labels)        # [trials, channels, time]
    clf.fit(others_x, others_y).partial_fit(own_x, own_y)

It goes wherever a scikit-learn classifier goes: pipelines, grid searches, MOABB's evaluations.
"""

import inspect
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

import biotrain as bt
from biotrain.errors import BioTrainError, DeviceError
from biotrain.frontend.screen import artefacts, as_integers
from biotrain.models import MODELS, averaging, build, standardized
from biotrain.package import Package
from biotrain.planner.follow import has_statistics
from biotrain.recipe import Recipe, recipe_of
from biotrain.run import check_place
from biotrain.run.device import Device
from biotrain.study.labelfree import alignment
from biotrain.study.metrics import cross_entropy
from biotrain.study.order import shuffled
from biotrain.study.pretrain import check_outputs
from biotrain.targets.target import load_target
from biotrain.topology.copies import copied

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise BioTrainError(
        "DeviceClassifier needs scikit-learn: pip install 'biotrain[sklearn]'"
    ) from error

NO_LABELS = "no_validation"
"""The value of y by which scikit-learn means that there are no labels."""

OVERRIDES = (
    *("strategy", "epochs", "lr", "momentum", "weight_decay", "schedule", "accumulate"),
    "clip_norm",
)
"""Parameters that take the place of the recipe's field of that name."""

Network = str | nn.Module | Package | Callable[..., nn.Module]


class DeviceClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier that trains and predicts in the C that a microcontroller would run.

    Parameters
    ----------
    model : name of a built-in network; a torch module, or the `Package` of one, which is trained on
        from its weights; or a callable that returns one and takes what it needs of n_chans,
        n_times, n_outputs, sfreq and norm by name (a class of braindecode does). Networks made here
        get a layer in front that standardises each channel by the windows of `fit`.
    sfreq : sampling rate in Hz, which built-in networks scale their kernels with.
    n_chans : channels in the rows of a two-dimensional X, [windows, n_chans x n_times]; 1 by
        default. A three-dimensional X [windows, channels, time] needs none.
    center : subtract each window's own mean per channel, not that of `fit`; follows drift.
    target, memory, strategy, on : as in `bt.compile` and `Package.run`.
    recipe : a `bt.Recipe` or the name of one, a package or its folder: the parameters below, and
        `strategy`, where they are None. By default that of the package that `model` is, else the
        default one; a network that `fit` trains from scratch has nothing to align or re-estimate,
        so its align and adabn count for a given module only, and where they are named and do not
        count, a warning says so. Then `fit` takes both from its windows, and aligns later windows
        alike. There are no other people's windows to `replay`. `artefacts` are left out of `fit`.
    epochs, lr, momentum, weight_decay, schedule, accumulate : how `fit` trains; `partial_fit` is
        one epoch at a constant rate.
    norm : "group", "frozen" or "batch"; see `bt.prepare`.
    clip_norm : most of the norm of a step's mean gradient; 0: no bound.
    random_state : seed of the initial weights and the order of the windows.

    Attributes
    ----------
    classes_ : the labels, sorted.
    package_ : the compiled `Package`, with its C, its plan and its cost.
    device_ : the `Device` that runs it.
    n_features_in_ : columns of X (channels, where it has three dimensions).

    Raises
    ------
    ValueError for input that scikit-learn's estimators refuse; BioTrainError for what the compiler
    refuses.
    """

    def __init__(
        self,
        model: Network = "epidenet",
        *,
        sfreq: float | None = None,
        n_chans: int | None = None,
        center: bool = True,
        target: str = "host",
        memory: str | int | None = None,
        strategy: str | None = None,
        on: str = "host",
        recipe: Any = None,
        epochs: int | None = None,
        lr: float | None = None,
        momentum: float | None = None,
        weight_decay: float | None = None,
        schedule: Literal["constant", "cosine"] | None = None,
        accumulate: int | None = None,
        norm: str | None = None,
        clip_norm: float | None = None,
        random_state: Any = 0,
    ) -> None:
        self.model = model
        self.sfreq = sfreq
        self.n_chans = n_chans
        self.center = center
        self.target = target
        self.memory = memory
        self.strategy = strategy
        self.on = on
        self.recipe = recipe
        self.epochs = epochs
        self.lr = lr
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.schedule = schedule
        self.accumulate = accumulate
        self.norm = norm
        self.clip_norm = clip_norm
        self.random_state = random_state

    def fit(self, X: Any, y: ArrayLike) -> Self:
        """Train from scratch: build, compile, and train `epochs` times over X, y in the C.

        X : [windows, channels, time], [windows, channels x time], or MNE Epochs.
        """
        x, labels = self._first(X, y, None)
        found = artefacts(as_integers(x), self.recipe_.artefacts)
        x, labels = x[~found], labels[~found]
        if self.recipe_.epochs and self.recipe_.strategy != "none":
            self._calibrate(x, labels)
        self._begun = False
        return self

    def _calibrate(self, x: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
        """All epochs; weights that are worse than before are undone, and the epochs repeated at a
        quarter of the rate, as often as the recipe says."""
        recipe, device = self.recipe_, self.device_
        source = self.package_.source
        group = source.batch.size if source.batch else source.accumulate
        before = (self._loss(x, labels), device.save_state()) if recipe.repeats else None
        for attempt in range(recipe.repeats + 1):
            lr = recipe.rate / 4**attempt
            device.begin(total_steps=recipe.epochs * -(-len(x) // group), lr=lr)
            try:
                for epoch in range(recipe.epochs):
                    self._epoch(x, labels, epoch)
            except DeviceError:
                if before is None:
                    raise
            else:
                if before is None or self._loss(x, labels) <= before[0]:
                    return
            device.load_state(before[1])

    def _loss(self, x: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
        """Mean cross-entropy of windows; infinity where the weights give no numbers."""
        try:
            loss = cross_entropy(self.device_.predict(self._aligned(x)), labels)
        except DeviceError:
            return float("inf")
        return loss if np.isfinite(loss) else float("inf")

    def partial_fit(self, X: Any, y: ArrayLike, classes: ArrayLike | None = None) -> Self:
        """Train one more epoch over X, y at a constant learning rate, from the current weights.

        classes : all labels that will ever come; needed in the first call unless `fit` came before.
        """
        if not hasattr(self, "classes_"):
            if classes is None:
                raise ValueError("classes must be passed on the first call to partial_fit.")
            x, labels = self._first(X, y, np.unique(np.asarray(classes)))
            self._begun = False
        else:
            if classes is not None and not np.array_equal(self.classes_, np.unique(classes)):
                raise ValueError("classes is not the same as on the last call to partial_fit")
            x, given = self._checked(X, y, reset=False)
            labels = self._labels(given)
        device = self._running()
        if self.recipe_.strategy == "none":
            return self
        if not self._begun:
            device.begin(total_steps=0)
            self._begun = True
        self._epoch(x, labels, self._epochs_done)
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """Predicted labels [windows]."""
        best = self._logits(X).argmax(1)
        found: NDArray[Any] = self.classes_[best]
        return found

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Softmax of the network's outputs [windows, classes], columns as in `classes_`."""
        logits = self._logits(X).astype(np.float64)
        shares = np.exp(logits - logits.max(1, keepdims=True))
        found: NDArray[np.float64] = shares / shares.sum(1, keepdims=True)
        return found

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    # ------------------------------------------------------------ windows and labels

    def _checked(
        self, X: Any, y: Any = NO_LABELS, *, reset: bool
    ) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """X as float32 [windows, channels, time], and y where it was given."""
        data = X.get_data(copy=False) if hasattr(X, "get_data") else X  # MNE Epochs
        options: dict[str, Any] = {"reset": reset, "dtype": np.float32, "allow_nd": True}
        if isinstance(y, str) and y == NO_LABELS:
            x, labels = validate_data(self, data, **options), np.empty(0)
        else:
            x, labels = validate_data(self, data, y, **options)
            check_classification_targets(labels)
        if x.ndim == 2:
            chans = self.n_chans or 1
            if x.shape[1] % chans:
                raise ValueError(f"{x.shape[1]} columns are no whole number of {chans} channels")
            x = x.reshape(len(x), chans, -1)
        elif x.ndim != 3:
            raise ValueError(f"X has {x.ndim} dimensions; windows are [windows, channels, time]")
        shape = tuple(x.shape[1:])
        if reset:
            self._shape = shape
        elif shape != self._shape:
            raise ValueError(f"windows of shape {shape}, but fit had {self._shape}")
        return np.ascontiguousarray(x), labels

    def _labels(self, y: NDArray[Any]) -> NDArray[np.int64]:
        """The labels `y` as indices into `classes_`."""
        found = np.searchsorted(self.classes_, y)
        found = np.minimum(found, len(self.classes_) - 1)
        unknown = np.unique(y[self.classes_[found] != y])
        if len(unknown):
            raise ValueError(f"class {unknown[0]} is not among {list(self.classes_)}")
        return found.astype(np.int64)

    def _logits(self, X: Any) -> NDArray[np.float32]:
        check_is_fitted(self, "classes_")
        x, _ = self._checked(X, reset=False)
        return self._running().predict(self._aligned(x))

    # ------------------------------------------------------------ network and device

    def _first(
        self, X: Any, y: ArrayLike, classes: NDArray[Any] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Check the data, then build, compile and start the network; returns windows and labels."""
        x, given = self._checked(X, y, reset=True)
        known = np.unique(given) if classes is None else classes
        if len(known) < 2:
            raise ValueError(f"a classifier needs two classes or more; y has one class: {known}")
        check_place(self.on, load_target(self.target))
        self.recipe_ = self._followed()
        self.classes_ = known
        labels = self._labels(given)
        draw = check_random_state(self.random_state)
        self._seed = int(draw.randint(2**31 - 1))
        self._epochs_done = 0
        sfreq = self.sfreq
        if sfreq is None and hasattr(X, "get_data"):
            sfreq = float(X.info["sfreq"])
        self._network = self._built(x, sfreq)
        clean = x[~artefacts(as_integers(x), self.recipe_.artefacts)]
        self._alignment = alignment(clean) if self.recipe_.align else None
        self._start()
        if self.recipe_.adabn:
            self.device_.adabn(self._aligned(clean))
        return x, labels

    @property
    def _module(self) -> nn.Module | None:
        """The network that was given; None where `fit` makes one."""
        if isinstance(self.model, Package):
            if self.model.module is None:
                raise BioTrainError("this package holds no module: give the network to compile")
            return self.model.module
        return self.model if isinstance(self.model, nn.Module) else None

    def _followed(self) -> Recipe:
        """The recipe with the parameters in place of its fields; what cannot be followed is off."""
        carried = self.model.recipe if isinstance(self.model, Package) else None
        given = carried if self.recipe is None else self.recipe
        asked = recipe_of(given)
        asked = asked.changed(**{name: getattr(self, name) for name in OVERRIDES})
        if given is None:  # nobody named one: a network of GroupNorm, as it always was
            return asked.changed(align=False, adabn=False, norm=self.norm)
        adapts = self._module is not None
        has_norm = adapts and has_statistics(self._module) and self.norm in (None, "frozen")
        able = replace(
            asked,
            align=asked.align and adapts,
            adabn=asked.adabn and has_norm,
            norm=self.norm or asked.norm,
            replay=0,
        )
        lost = [n for n in ("align", "adabn", "replay") if getattr(asked, n) != getattr(able, n)]
        if lost:
            warnings.warn(
                f"DeviceClassifier does not follow {', '.join(lost)} of recipe '{asked.name}' here",
                stacklevel=4,
            )
        return able

    def _aligned(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Windows as the network takes them."""
        if self._alignment is None:
            return x
        return np.einsum("cd,ndt->nct", self._alignment, x).astype(np.float32)

    def _built(self, x: NDArray[np.float32], sfreq: float | None) -> nn.Module:
        window = torch.zeros(1, *self._shape)
        if self._module is not None:
            net = copied(self._module).eval()
            check_outputs(net, window, len(self.classes_), type(net).__name__)
            return net
        make = self.model
        assert not isinstance(make, Package)
        shape: dict[str, Any] = {
            "n_chans": x.shape[1],
            "n_times": x.shape[2],
            "n_outputs": len(self.classes_),
            "sfreq": sfreq,
            "norm": "group" if (group := self._norm == "group") else "batch",
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            if isinstance(make, str):
                if make in MODELS and sfreq is None:
                    raise ValueError(f"give sfreq: {make} scales its kernels with it")
                pool = averaging(make) if group else {}
                net = build(make, **{**shape, **pool})
            else:
                net = make(**_accepted(make, shape))
        name = make if isinstance(make, str) else str(make.__name__)
        check_outputs(net, window, len(self.classes_), name)
        means = x.mean((0, 2), dtype=np.float64)
        own = x.mean(2, keepdims=True) if self.center else means[None, :, None]
        std = np.sqrt(((x.astype(np.float64) - own) ** 2).mean((0, 2)))
        return standardized(net, means, np.where(std > 0, std, 1.0), self.center).eval()

    def _start(self) -> None:
        """Compile the network as it was built, and run it."""
        recipe = self.recipe_
        net = bt.prepare(self._network, norm=self._norm)
        self.package_: Package = bt.compile(
            net.train() if recipe.batch > 1 else net,
            torch.zeros(1, *self._shape),
            target=self.target,
            memory=self.memory,
            recipe=recipe,
        )
        self.device_: Device = self.package_.run(self.on)

    @property
    def _norm(self) -> str:
        """The norm of the network: as it is named, else that of the recipe."""
        chosen = self.recipe_.chosen.norm
        return "group" if chosen in (None, "convert") else chosen

    def _epoch(self, x: NDArray[np.float32], labels: NDArray[np.int64], epoch: int) -> None:
        order = shuffled(len(x), self._seed, epoch)
        self.device_.train(self._aligned(x)[order], labels[order])
        self._epochs_done = epoch + 1

    def _running(self) -> Device:
        """The device; after unpickling it is restarted with the weights that it had."""
        if not hasattr(self, "device_"):
            self._start()
            self.device_.load_state(self._checkpoint)
        return self.device_

    def __getstate__(self) -> dict[str, Any]:
        """The state for pickling: everything but the running device, and its checkpoint instead."""
        state: dict[str, Any] = super().__getstate__()
        state = {k: v for k, v in state.items() if k not in ("device_", "package_")}
        if hasattr(self, "device_"):
            state["_checkpoint"] = self.device_.save_state()
        return state


def _accepted(make: Callable[..., Any], shape: dict[str, Any]) -> dict[str, Any]:
    """The part of `shape` that `make` takes by name."""
    parameters = inspect.signature(make).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):  # but nobody asked for a norm
        return {key: value for key, value in shape.items() if key != "norm" or key in parameters}
    return {name: shape[name] for name in parameters if name in shape}
