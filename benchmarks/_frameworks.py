# SPDX-License-Identifier: Apache-2.0
"""One training step of a network in other frameworks, as a function without arguments.

Each takes a torch module whose children run in order, a batch and its labels, and returns a step:
forward, backward and SGD with momentum and weight decay, one thread. What is not installed or
cannot do it raises `Missing` with the reason.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

RATE, MOMENTUM, DECAY = 5e-3, 0.9, 1e-3
Step = Callable[[], object]


class Missing(Exception):
    """The framework is not here, or cannot train this network."""


def torch_accumulated(net: torch.nn.Module, x: np.ndarray, y: np.ndarray) -> Step:
    """PyTorch eager, one sample at a time, gradients accumulated: the work of the device."""
    optimizer, xt, yt = _torch(net, x, y)

    def step() -> None:
        optimizer.zero_grad()
        for i in range(len(xt)):
            loss = torch.nn.functional.cross_entropy(net(xt[i : i + 1]), yt[i : i + 1])
            (loss / len(xt)).backward()
        optimizer.step()

    return step


def torch_batch(net: torch.nn.Module, x: np.ndarray, y: np.ndarray) -> Step:
    """PyTorch eager, all samples at once."""
    optimizer, xt, yt = _torch(net, x, y)

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(xt), yt).backward()
        optimizer.step()

    return step


def torch_compiled(net: torch.nn.Module, x: np.ndarray, y: np.ndarray) -> Step:
    """torch.compile (inductor), all samples at once."""
    if not shutil.which("g++"):
        raise Missing("no g++")
    optimizer, xt, yt = _torch(net, x, y)
    compiled = torch.compile(net)

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(compiled(xt), yt).backward()
        optimizer.step()

    try:
        step()
    except Exception as error:
        raise Missing(f"inductor: {type(error).__name__}") from error
    return step


def jax_jit(net: torch.nn.Module, x: np.ndarray, y: np.ndarray) -> Step:
    """JAX, all samples at once, the whole step in one jit."""
    if not find_spec("jax"):
        raise Missing("not installed")
    import os

    os.environ.setdefault(
        "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    )
    import jax
    import jax.numpy as jnp

    layers = list(net.children())
    weights = {k: jnp.asarray(v.detach().numpy()) for k, v in net.named_parameters()}
    names = [name for name, _ in net.named_children()]

    def forward(p: Any, v: Any) -> Any:
        v = v[:, None]
        for name, layer in zip(names, layers, strict=True):
            v = _jax_layer(layer, name, p, v, jax, jnp)
        return v

    def loss(p: Any, v: Any, labels: Any) -> Any:
        logs = jax.nn.log_softmax(forward(p, v))
        return -jnp.mean(jnp.take_along_axis(logs, labels[:, None], 1))

    @jax.jit
    def update(p: Any, m: Any, v: Any, labels: Any) -> Any:
        grads = jax.grad(loss)(p, v, labels)
        m = {k: MOMENTUM * m[k] + grads[k] + DECAY * p[k] for k in p}
        return {k: p[k] - RATE * m[k] for k in p}, m

    xj, yj = jnp.asarray(x), jnp.asarray(y)
    mine = np.asarray(forward(weights, xj))
    if not np.allclose(mine, net(torch.from_numpy(x)).detach().numpy(), atol=1e-3):
        raise Missing("its forward pass is another")
    state = [weights, {k: jnp.zeros_like(v) for k, v in weights.items()}]

    def step() -> None:
        state[:] = update(state[0], state[1], xj, yj)
        jax.block_until_ready(state)

    return step


def onnx_training(net: torch.nn.Module, x: np.ndarray, y: np.ndarray) -> Step:
    """ONNX Runtime training, all samples at once.

    It has no gradient of GroupNorm: the network has BatchNorm there, which is less work.
    """
    if not find_spec("onnxruntime") or not find_spec("onnx"):
        raise Missing("not installed")
    try:
        from onnxruntime.training import api, artifacts
    except Exception as error:
        raise Missing("onnxruntime without training") from error
    import onnx
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    with tempfile.TemporaryDirectory() as folder:
        try:
            model, trained = _onnx(net, x)
            artifacts.generate_artifacts(
                model,
                requires_grad=trained,
                loss=artifacts.LossType.CrossEntropyLoss,
                optimizer=artifacts.OptimType.SGD,
                artifact_directory=folder,
            )
            for path in Path(folder).glob("*.onnx"):  # a newer onnx writes what it cannot read
                part = onnx.load(path)
                part.ir_version = min(part.ir_version, 10)
                onnx.save(part, path)
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            state = api.CheckpointState.load_checkpoint(str(Path(folder, "checkpoint")))
            module = api.Module(
                str(Path(folder, "training_model.onnx")), state, session_options=options
            )
            optimizer = api.Optimizer(str(Path(folder, "optimizer_model.onnx")), module)
        except Exception as error:
            raise Missing(f"ONNX Runtime: {type(error).__name__}: {error}"[:80]) from error
    module.train()
    windows, labels = x[:, None], y.astype(np.int64)

    def step() -> None:
        module(windows, labels)
        optimizer.step()
        module.lazy_reset_grad()

    return step


FRAMEWORKS: dict[str, Callable[[torch.nn.Module, np.ndarray, np.ndarray], Step]] = {
    "PyTorch eager, accumulated": torch_accumulated,
    "PyTorch eager, batch": torch_batch,
    "torch.compile, batch": torch_compiled,
    "JAX jit, batch": jax_jit,
    "ONNX Runtime training, batch": onnx_training,
}


def _torch(
    net: torch.nn.Module, x: np.ndarray, y: np.ndarray
) -> tuple[torch.optim.Optimizer, torch.Tensor, torch.Tensor]:
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)
    return optimizer, torch.from_numpy(x), torch.from_numpy(y)


def _pads(layer: torch.nn.Conv2d) -> list[tuple[int, int]]:
    """Zeros before and after, of rows and of time."""
    if layer.padding == "same":
        return [((k - 1) // 2, k - 1 - (k - 1) // 2) for k in layer.kernel_size]
    return [(p, p) for p in layer.padding]  # type: ignore[misc]


def _jax_layer(layer: torch.nn.Module, name: str, p: Any, v: Any, jax: Any, jnp: Any) -> Any:
    if isinstance(layer, torch.nn.Conv2d):
        return jax.lax.conv_general_dilated(
            v, p[f"{name}.weight"], (1, 1), _pads(layer), feature_group_count=layer.groups
        )
    if isinstance(layer, torch.nn.GroupNorm):
        mean = v.mean((1, 2, 3), keepdims=True)
        variance = ((v - mean) ** 2).mean((1, 2, 3), keepdims=True)
        scale, shift = (p[f"{name}.{k}"][None, :, None, None] for k in ("weight", "bias"))
        return (v - mean) * jax.lax.rsqrt(variance + layer.eps) * scale + shift
    if isinstance(layer, torch.nn.ReLU):
        return jax.nn.relu(v)
    if isinstance(layer, torch.nn.AvgPool2d):
        k = layer.kernel_size[1]  # type: ignore[index]
        n = v.shape[3] // k
        return v[..., : n * k].reshape(*v.shape[:3], n, k).mean(-1)
    if isinstance(layer, torch.nn.AdaptiveAvgPool2d):
        return v.mean((2, 3), keepdims=True)
    if isinstance(layer, torch.nn.Flatten):
        return v.reshape(v.shape[0], -1)
    if isinstance(layer, torch.nn.Linear):
        return v @ p[f"{name}.weight"].T + p[f"{name}.bias"]
    if isinstance(layer, torch.nn.Identity):
        return v
    raise Missing(f"no {type(layer).__name__} here")


def _onnx(net: torch.nn.Module, x: np.ndarray) -> tuple[Any, list[str]]:
    """The network as ONNX, and the names of its parameters."""
    from onnx import TensorProto, helper, numpy_helper

    nodes, tensors, trained, at = [], [], [], "input"

    def keep(name: str, values: np.ndarray, train: bool = True) -> str:
        tensors.append(numpy_helper.from_array(np.ascontiguousarray(values, np.float32), name))
        if train:
            trained.append(name)
        return name

    for name, layer in net.named_children():
        p = {k: v.detach().numpy() for k, v in layer.named_parameters()}
        if isinstance(layer, torch.nn.Identity):
            continue
        inputs, outputs, attrs = [at], [f"{name}_out"], {}
        if isinstance(layer, torch.nn.Conv2d):
            (top, bottom), (left, right) = _pads(layer)
            op, inputs = "Conv", [at, keep(f"{name}.weight", p["weight"])]
            attrs = {"group": layer.groups, "pads": [top, left, bottom, right]}
        elif isinstance(layer, torch.nn.GroupNorm):
            zeros = np.zeros(layer.num_channels)
            op, attrs = "BatchNormalization", {"training_mode": 1, "epsilon": layer.eps}
            inputs += [keep(f"{name}.{k}", p[k]) for k in ("weight", "bias")]
            inputs += [keep(f"{name}.mean", zeros, False), keep(f"{name}.var", zeros + 1, False)]
            outputs += [f"{name}_mean", f"{name}_var"]
        elif isinstance(layer, torch.nn.ReLU):
            op = "Relu"
        elif isinstance(layer, torch.nn.AvgPool2d):
            size = list(layer.kernel_size)  # type: ignore[arg-type]
            op, attrs = "AveragePool", {"kernel_shape": size, "strides": size}
        elif isinstance(layer, torch.nn.AdaptiveAvgPool2d):
            op = "GlobalAveragePool"
        elif isinstance(layer, torch.nn.Flatten):
            op = "Flatten"
        elif isinstance(layer, torch.nn.Linear):
            op, attrs = "Gemm", {"transB": 1}
            inputs += [keep(f"{name}.{k}", p[k]) for k in ("weight", "bias")]
        else:
            raise Missing(f"no {type(layer).__name__} here")
        nodes.append(helper.make_node(op, inputs, outputs, name=name, **attrs))
        at = outputs[0]
    shape = [len(x), 1, *x.shape[1:]]
    with torch.no_grad():
        classes = net(torch.from_numpy(x)).shape[1]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(at, TensorProto.FLOAT, [len(x), classes])],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)])
    model.ir_version = 8
    return model, trained
