# SPDX-License-Identifier: Apache-2.0
"""MODEL and DATA of the command line become a torch module, a shape and a package."""

import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from biotrain import models
from biotrain.cli.options import ModelOptions, TrainOptions
from biotrain.errors import BioTrainError, users_code
from biotrain.frontend import FrontEnd, read_front
from biotrain.package import Package, compile_model
from biotrain.recipe import recipe_of
from biotrain.study.data.continuous import Continuous
from biotrain.study.data.recordings import Recordings
from biotrain.study.data.sources import load_continuous
from biotrain.study.data.sources import recordings as found_recordings
from biotrain.study.experiment import dataset_name
from biotrain.study.pretrain import check_outputs
from biotrain.topology import prepare

SHAPE = {"n_chans": "--chans", "n_times": "--times", "n_outputs": "--classes", "sfreq": "--sfreq"}


@dataclass(frozen=True)
class Model:
    """What MODEL names, with the shape that the options or the recordings give."""

    name: str
    options: ModelOptions
    recipe: str | None = None

    @property
    def exported(self) -> bool:
        """Whether it is a `.pt2` file."""
        return self.name.endswith(".pt2")

    @property
    def as_published(self) -> bool:
        """Whether it is a built-in network at its paper's shape."""
        return self.name in models.PAPER and self.shape == models.PAPER[self.name]

    @cached_property
    def found(self) -> tuple[Recordings | None, str]:
        """The recordings of `--data`, and a line about `--front`, "" without one."""
        if self.options.data is None:
            if self.options.decimate is not None:
                raise BioTrainError("--decimate needs --data")
            return None, ""
        return recordings(self.options.data, self.options.decimate, self.options.front)

    @property
    def recordings(self) -> Recordings | None:
        """The recordings of `--data`."""
        return self.found[0]

    @cached_property
    def continuous(self) -> Continuous | None:
        """The recordings of `--data`, where they are continuous."""
        return None if self.options.data is None else load_continuous(self.options.data)

    @cached_property
    def front(self) -> FrontEnd | None:
        """The front end of `--front`, for the recordings of `--data` or the shape; None where
        nobody asked for one. Raises RecordingError where the recordings are windows already."""
        given = self.options
        if given.front is None:
            return None
        spec = read_front(given.front)
        if given.data is not None:
            assert self.recordings is not None
            return None if self.continuous is None else self.continuous.front(spec)
        rate, chans = self.shape.get("sfreq"), self.shape.get("n_chans")
        times = self.shape.get("n_times")
        fs = None if rate is None or spec.fs_in is not None else rate * spec.decimate
        made = spec.front(fs_in=fs, n_chans=chans, window=times)
        if made.window != times:
            raise BioTrainError(
                f"the windows of '{given.front}' have {made.window} samples, those of the network "
                f"{times}: give --times {made.window}"
            )
        return made

    @cached_property
    def shape(self) -> dict[str, Any]:
        """n_chans, n_times, n_outputs and sfreq, as far as they are known."""
        given = self.options
        values = (given.chans, given.times, given.classes, given.sfreq)
        stated = {k: v for k, v in zip(SHAPE, values, strict=True) if v is not None}
        rec = self.recordings
        if rec is None:
            return {**models.PAPER.get(self.name, {}), **stated}
        if stated:
            raise BioTrainError(
                f"{SHAPE[next(iter(stated))]} contradicts --data: the recordings give the shape"
            )
        return shape_of(rec)

    def built(self) -> nn.Module:
        """The module before any rewrite, its weights drawn from the seed."""
        make = factory(self.name)
        with torch.random.fork_rng(devices=[]), one_line(self.name):
            torch.manual_seed(self.options.seed)
            return make(**self.shape)

    @property
    def _pool(self) -> str:
        return self.options.pool or ("avg" if self.norm == "group" else "keep")

    @property
    def norm(self) -> str:
        """The norm that it gets: as named, else that of the recipe, else GroupNorm."""
        if self.options.norm is not None or self.recipe is None:
            return self.options.norm or "group"
        chosen = recipe_of(self.recipe).chosen.norm
        return "group" if chosen in (None, "convert") else chosen

    def prepared(self) -> nn.Module:
        """The module after its topology rewrites."""
        net = self.built()
        given = self.options
        with one_line(self.name):
            net = prepare(
                net,
                norm=self.norm,
                groups=given.groups,
                pool=self._pool,
                example_input=self.example(),
            )
        rec = self.recordings
        if rec is not None and self.name in models.MODELS:
            from biotrain.study.pretrain import statistics

            net = models.standardized(net, *statistics(rec, range(len(rec))))
        return net

    def example(self) -> torch.Tensor:
        """One window of zeros."""
        missing = [SHAPE[key] for key in ("n_chans", "n_times") if key not in self.shape]
        if missing:
            raise BioTrainError(
                f"the input of '{self.name}' has no known shape: give {' and '.join(missing)}, "
                "or --data"
            )
        return torch.zeros(1, self.shape["n_chans"], self.shape["n_times"])

    @property
    def bits(self) -> int:
        """Bits of the converter in front of a front end: those of the recordings, else 24."""
        if self.front is None:
            return 16
        return 24 if self.continuous is None else self.continuous.bits

    def fed(self, train: TrainOptions) -> TrainOptions:
        """The options with the input that the front end makes."""
        front = self.front
        if front is None or front.unit is None or train.input_scale is not None:
            return train
        return replace(train, input_type="int16", input_scale=front.unit)

    def compiled(self, train: TrainOptions, frontier: bool = False) -> Package:
        """The package; `frontier`: with the plans from the fastest to the smallest."""
        if self.options.front is None:
            train.check()  # before recordings are read and a network is built
        train = self.fed(train)
        train.check(self.front, self.bits)
        asked = train.compiled(self.front, self.bits)
        if self.exported:
            model: Any = Path(readable(self.name))
            example = torch.zeros(1, 1, 1)  # a .pt2 file brings its own
            title = f"{model.stem}, strategy {train.trains}"
        else:
            model, example = self.prepared(), self.example()
            rec, classes = self.recordings, self.shape.get("n_outputs")
            if classes is not None:
                check_outputs(model, example, classes, self.name)
            data = "" if rec is None else f" for {dataset_name(rec)}"
            title = f"{self.name}{data}, strategy {train.trains}"
        pkg = compile_model(
            model,
            example,
            frontier=frontier,
            title=title,
            **asked,
        )
        outputs, classes = pkg.source.train.outputs[0].size, self.shape.get("n_outputs")
        if classes is not None and outputs != classes:
            raise BioTrainError(
                f"'{self.name}' has {outputs} outputs, and there are {classes} classes"
            )
        return pkg


def shape_of(rec: Recordings) -> dict[str, Any]:
    """The shape that recordings give a network: n_chans, n_times, n_outputs, sfreq."""
    return {
        "n_chans": rec.n_chans,
        "n_times": rec.n_times,
        "n_outputs": rec.n_classes,
        "sfreq": rec.fs,
    }


def readable(path: str) -> str:
    """`path`, if it is a file that can be read; BioTrainError otherwise."""
    if not Path(path).is_file():
        raise BioTrainError(f"cannot read '{path}': there is no such file")
    if not os.access(path, os.R_OK):
        raise BioTrainError(f"cannot read '{path}': permission denied")
    return path


def recordings(data: str, hz: float | None, front: Path | None = None) -> tuple[Recordings, str]:
    """The recordings called `data`, decimated where `hz` says so or through the front end of a
    file; and a line about that, "" without one."""
    return found_recordings(data, hz, None if front is None else read_front(front))


def factory(name: str) -> Callable[..., nn.Module]:
    """The function that builds the network called `name`; it takes n_chans, n_times, n_outputs,
    sfreq (and norm) by name, and passes on those that the function behind it accepts."""
    if name in models.MODELS:
        return lambda **shape: models.build(name, **shape)
    if name.endswith(".pt2"):
        raise BioTrainError(
            f"'{name}' is compiled as it is; this verb needs the module: name a built-in model or "
            "module:factory"
        )
    if ":" not in name:
        near = get_close_matches(name, models.MODELS, 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise BioTrainError(
            f"no model is called '{name}'{hint}; there are {', '.join(models.MODELS)}, "
            "module:factory, and .pt2 files"
        )
    module_name, _, attribute = name.partition(":")
    found = imported(module_name)
    for part in attribute.split("."):
        with users_code(name):
            found = getattr(found, part, None)
    if isinstance(found, nn.Module):
        net = found
        return lambda **_: net
    if not callable(found):
        raise BioTrainError(f"module '{module_name}' has no factory '{attribute}'")
    make: Callable[..., Any] = found

    def build(**shape: Any) -> nn.Module:
        with users_code(name):
            net = make(**_accepted(name, make, shape))
        if not isinstance(net, nn.Module):
            raise BioTrainError(f"'{name}' returned a {type(net).__name__}, not a torch module")
        return net

    build.__name__ = name
    return build


def network(name: str) -> tuple[str | Callable[..., nn.Module], bool]:
    """A built-in network or module:factory, and whether it can be built with another norm; workers
    of a study import this."""
    if name in models.MODELS:
        return name, True
    make = factory(name)
    module_name, _, attribute = name.partition(":")
    found = getattr(imported(module_name), attribute, None)
    return make, callable(found) and "norm" in inspect.signature(found).parameters


def imported(module_name: str) -> Any:
    """The module of that name, also from the working directory; BioTrainError without one."""
    if "" not in sys.path:
        sys.path.insert(0, "")  # the working directory, as `python -m` has it
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise BioTrainError(f"'{module_name}' is not the name of a module")
    with users_code(module_name):
        try:
            return import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                raise  # the module is there, and something that it imports is not
            raise BioTrainError(f"cannot import '{module_name}': {error.msg}") from error


def _accepted(name: str, make: Callable[..., Any], shape: dict[str, Any]) -> dict[str, Any]:
    """The part of `shape` that `make` takes by name."""
    try:
        signature = inspect.signature(make).parameters
    except (TypeError, ValueError) as error:  # a function in C may not tell
        raise BioTrainError(
            f"'{name}' does not tell what it takes: wrap it in a function"
        ) from error
    parameters = signature.values()
    named = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    given = {*SHAPE, *shape}
    needed = [key for key, p in named.items() if p.default is p.empty and key not in given]
    if needed:
        raise BioTrainError(
            f"'{name}' needs {', '.join(needed)}: wrap it in a function of n_chans, n_times, "
            "n_outputs and sfreq"
        )
    if any(p.kind is p.VAR_KEYWORD for p in parameters):  # but nobody asked for a norm
        return {key: value for key, value in shape.items() if key != "norm" or key in signature}
    for key, option in SHAPE.items():
        if key in named and key not in shape and named[key].default is inspect.Parameter.empty:
            raise BioTrainError(f"'{name}' takes {key}: give {option}, or --data")
    return {key: value for key, value in shape.items() if key in named}


@contextmanager
def one_line(name: str) -> Iterator[None]:
    """Turn a ValueError of a model or a rewrite, which is about the input, into one line."""
    try:
        yield
    except ValueError as error:
        where = "" if name in models.MODELS else f"{name}: "
        raise BioTrainError(f"{where}{error}") from error
