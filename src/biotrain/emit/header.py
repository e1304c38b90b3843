# SPDX-License-Identifier: Apache-2.0
"""`model.h`: the interface of a package."""

from __future__ import annotations

from collections.abc import Sequence

from biotrain.emit.batch import batch_interface
from biotrain.emit.context import context
from biotrain.emit.sliced import segment_count
from biotrain.emit.source import Source, trained_values
from biotrain.emit.text import titled, wrap
from biotrain.ir.op import float_literal, rows_times
from biotrain.ir.optimizer import Gradients

_RULE: dict[Gradients, tuple[str, ...]] = {
    "separate": (
        "/* Every call but bt_init leaves the weights as they were unless it returns BT_OK. */",
    ),
    "momentum": (
        "/* Every call but bt_init leaves the weights as they were unless it returns BT_OK.",
        " * The gradients of a group are added to the momentum, which cannot be had back: where a",
        " * group is dropped (bt_drop, BT_ERR_GRADIENT_NONFINITE, BT_ERR_WEIGHT_NONFINITE), it",
        " * starts again from zero. */",
    ),
    "update": (
        "/* Every call but bt_init leaves the weights as they were unless it returns BT_OK, or",
        " * BT_ERR_GRADIENT_SKIPPED: then m->skipped parameters are as they were. */",
    ),
}
_SAMPLE: dict[Gradients, str] = {
    "separate": "Adds the gradient of one window to the group.",
    "momentum": "Adds the gradient of one window, divided by the windows of the group.",
    "update": "One optimizer step: each parameter is updated as soon as its gradient is complete.",
}
_MEAN = "One optimizer step with the mean gradient of the group; a new group begins."
_STEP: dict[Gradients, str] = {
    "separate": _MEAN,
    "momentum": _MEAN,
    "update": "Ends the group of the one window, whose step is done.",
}
_DROP: dict[Gradients, str] = {
    "separate": "Forgets the group: its gradients are dropped, the weights stay.",
    "momentum": "Forgets the group, if it has windows, and the momentum; the weights stay.",
    "update": "Ends the group; a step that is done stays done.",
}


def _function(text: str, prototype: str, errors: Sequence[str] = ()) -> list[str]:
    """A prototype below what it does and the statuses that it returns beside BT_OK."""
    listed = f" Errors: {', '.join(errors)}." if errors else ""
    return [*wrap(f"/* {text}{listed} */", "", " * "), *wrap(prototype, "", "    ")]


def _group_interface(source: Source) -> list[str]:
    if source.gradients != "momentum":
        return []
    return _function(
        "Before the first window of a group that has not BT_GROUP of them: how many it has. In a "
        "group that is stepped with fewer, those that are missing count as zero gradients.",
        "bt_status bt_group(bt_model *m, uint32_t windows);",
        ["BT_ERR_GROUP (0, or the group has windows already)"],
    )


def _adabn_interface(source: Source) -> list[str]:
    if source.adabn is None:
        return []
    return _function(
        "Re-estimates the running statistics from n windows without labels, as if they were one "
        "batch: mean and unbiased variance, layer after layer. Not between the windows of a "
        "group. The label that source gives is not read. Predictions and training go on with the "
        "new statistics; features of windows have to be recomputed.",
        "bt_status bt_adabn(bt_model *m, const bt_source *source, uint32_t n);",
        [
            "BT_ERR_GROUP (n out of range, or a group has windows)",
            *_input_errors(source),
            "BT_ERR_STATISTICS",
            "what source->window returns",
        ],
    )


def _input_errors(source: Source) -> list[str]:
    finite = ["BT_ERR_INPUT_NONFINITE"] if source.input_scale is None else []
    return [*finite, "BT_ERR_INPUT_FLAT (if m->check_flat)"]


def _training_errors(source: Source) -> list[str]:
    label = ["BT_ERR_LABEL"] if source.labels else []
    skipped = ["BT_ERR_GRADIENT_SKIPPED"] if source.gradients == "update" else []
    return [*label, *_input_errors(source), "BT_ERR_LOSS_NONFINITE", *skipped]


def _busy(source: Source) -> list[str]:
    return ["BT_ERR_BUSY (a slice is open)"] if source.live else []


def _step_errors(source: Source) -> list[str]:
    names = ["BT_ERR_GRADIENT_NONFINITE", "BT_ERR_WEIGHT_NONFINITE"]
    finite = names if source.gradients != "update" else []
    return ["BT_ERR_NO_GRADIENT", *(finite if source.trained else [])]


_ABOVE = {
    "bt_params": ("/* Trained parameters; gradients and optimizer state have the same layout. */",),
    "bt_running": ("/* Running statistics. */",),
    "bt_slice": ("/* Where a call in slices is. */",),
}


def _scale(source: Source) -> list[str]:
    if source.input_scale is None:
        return []
    text = float_literal(source.input_scale)
    return [f"#define BT_INPUT_SCALE {text} /* a sample q stands for (float)q * BT_INPUT_SCALE */"]


def _feature_interface(source: Source, label: str) -> list[str]:
    if source.features is None:
        return []
    errors = [e for e in _training_errors(source) if "FLAT" not in e and "NONFINITE" not in e]
    return [
        f"#define BT_FEATURES {source.features.size} /* floats of the features of one window */",
        *_function(
            "What the frozen layers compute from a window. It does not change: compute it once.",
            f"bt_status bt_features(bt_model *m, const {source.sample_type} *x, float *features);",
            _input_errors(source),
        ),
        *_function(
            "bt_train_sample, to the bit, from the features of its window.",
            f"bt_status bt_train_features(bt_model *m, const float *features, {label}, "
            "float *loss);",
            [*errors, "BT_ERR_INPUT_NONFINITE", "BT_ERR_LOSS_NONFINITE"],
        ),
    ]


def _live_interface(source: Source, label: str) -> list[str]:
    """Calls that pause."""
    kind = source.sample_type
    return [
        *wrap(
            "/* The same calls in slices. A call returns BT_MORE at the border of a node, or of an "
            "iteration of a fused loop, before max_cycles (an estimate; one slice at least) are "
            "over; then call again with the same arguments, of which only loss and logits are "
            "read. The bits are those of the whole call. Between two slices of training bt_predict "
            "may be called: it has an arena of its own. What would disturb a slice that is open "
            "returns BT_ERR_BUSY; bt_begin and bt_drop forget it. During a step bt_predict sees "
            "the tensors that are updated already. Errors: those of the whole call. */",
            "",
            " * ",
        ),
        f"bt_status bt_train_slice(bt_model *m, const {kind} *x, {label}, float *loss,",
        "    uint32_t max_cycles);",
        "bt_status bt_step_slice(bt_model *m, uint32_t max_cycles);",
        f"bt_status bt_predict_slice(bt_model *m, const {kind} *x, float *logits,",
        "    uint32_t max_cycles);",
        "/* As bt_window, for predictions. */",
        f"{kind} *bt_predict_window(bt_model *m);",
        *wrap(
            "/* Segments of a checkpoint, and how many there are: of the whole state; of weights "
            "and running statistics. */",
            "",
            " * ",
        ),
        f"#define BT_STATE_SEGMENTS {segment_count(source)}",
        "size_t bt_state_segments(bt_model *m, bt_segment *segments);",
        "size_t bt_weight_segments(bt_model *m, bt_segment *segments);",
    ]


def _call_interface(source: Source, label: str) -> list[str]:
    """The functions of every package."""
    x_type = source.sample_type
    train = (
        _function(
            "Adds the gradients of a batch of n windows to the group; loss: their mean.",
            "bt_status bt_train_batch(bt_model *m, const bt_source *source, uint32_t n, "
            "float *loss);",
            [
                "BT_ERR_GROUP (n is 0 or above BT_BATCH)",
                *_training_errors(source),
                "what source->window returns",
            ],
        )
        if source.batch
        else _function(
            _SAMPLE[source.gradients],
            f"bt_status bt_train_sample(bt_model *m, const {x_type} *x, {label}, float *loss);",
            [*_training_errors(source), *_busy(source)],
        )
    )
    return [
        "/* Factory weights, no steps done. */",
        "void bt_init(bt_model *m);",
        *_function(
            "Starts a calibration of so many steps, which the cosine schedule spans.",
            "bt_status bt_begin(bt_model *m, uint32_t steps, float lr);",
            ["BT_ERR_RATE (lr is not finite, negative or above BT_RATE_MOST)"],
        ),
        *_function(
            "Where a window may be written: a call that is given this pointer does not copy it.",
            f"{x_type} *bt_window(bt_model *m);",
        ),
        *_function(
            "x: BT_INPUT_ROWS rows of BT_INPUT_TIMES samples; logits: BT_OUTPUTS.",
            f"bt_status bt_predict(bt_model *m, const {x_type} *x, float *logits);",
            [*_input_errors(source), "BT_ERR_OUTPUT_NONFINITE"],
        ),
        *train,
        *_adabn_interface(source),
        *_feature_interface(source, label),
        *(_live_interface(source, label) if source.live else []),
        *_group_interface(source),
        *_function(
            _STEP[source.gradients],
            "bt_status bt_step(bt_model *m);",
            [*_step_errors(source), *_busy(source)],
        ),
        *_function(_DROP[source.gradients], "void bt_drop(bt_model *m);"),
        "/* CRC-32 of the trained parameters and running statistics. */",
        "uint32_t bt_weights_crc32(const bt_model *m);",
        "/* Bytes of a checkpoint: weights, state of the optimizer, counters. */",
        "size_t bt_save_bytes(void);",
        *_function(
            "Writes a checkpoint to slot.",
            "bt_status bt_save(bt_model *m, void *slot, size_t slot_bytes);",
            ["BT_ERR_CHECKPOINT_SHORT (slot is too small)", *_busy(source)],
        ),
        *_function(
            "Reads a checkpoint from slot.",
            "bt_status bt_load(bt_model *m, const void *slot, size_t slot_bytes);",
            [
                "BT_ERR_CHECKPOINT_SHORT",
                "BT_ERR_CHECKPOINT_FOREIGN",
                "BT_ERR_CHECKPOINT_CORRUPT",
                *_busy(source),
            ],
        ),
    ]


def header(source: Source) -> str:
    x, logits, target = source.train.inputs[0], source.train.outputs[0], source.train.inputs[1]
    rows, times = rows_times(x.shape)
    plan = source.plan
    trained = trained_values(source)
    x_type = source.sample_type
    label = "int32_t label" if target.dtype == "i32" else "const float *target"
    lines = [
        "/* SPDX-License-Identifier: Apache-2.0 */",
        *titled(source.title),
        " * Generated by BioTrain. One context holds everything: place a bt_model where you like.",
        (
            f" * Context {plan.context_bytes} bytes: arena {plan.peak_bytes}, "
            f"parameters {plan.param_bytes}, gradients {plan.gradient_bytes},"
        ),
        f" * optimizer {plan.optimizer_bytes}, running statistics {plan.state_bytes}."
        + ("" if plan.l1_bytes else " */"),
        *(
            [f" * It lies in L2; windows of it in L1 take {plan.l1_bytes} bytes more. */"]
            if plan.l1_bytes
            else []
        ),
        "#ifndef BT_MODEL_H",
        "#define BT_MODEL_H",
        "",
        "#include <stddef.h>",
        "#include <stdint.h>",
        "",
        *(['#include "bt_checkpoint.h"'] if source.live else []),
        '#include "bt_status.h"',
        "",
        "#ifdef __cplusplus",
        'extern "C" {',
        "#endif",
        "",
        f"#define BT_INPUT_ROWS {rows}   /* channels of one window */",
        f"#define BT_INPUT_TIMES {times} /* samples of one window */",
        *_scale(source),
        f"#define BT_OUTPUTS {logits.size}",
        f"#define BT_GROUP {source.accumulate} /* windows whose mean gradient makes one step */",
        *(
            [f"#define BT_WORKERS {source.workers} /* cores that share every call (bt_port.h) */"]
            if source.workers > 1
            else []
        ),
        f"#define BT_TRAINED {sum(v.size for v in trained)} /* parameters that train */",
        "#define BT_RATE_MOST 1e10f /* largest learning rate that bt_begin takes */",
        *([] if target.dtype == "i32" else [f"#define BT_TARGETS {target.size} /* of a window */"]),
        *(
            ["#define BT_GROUPED 1 /* bt_group is there */"]
            if source.gradients == "momentum"
            else []
        ),
        "",
        "extern const uint32_t bt_fingerprint; /* of the model, in checkpoints */",
        "#define BT_FINGERPRINT bt_fingerprint",
        "",
    ]
    lines += [f"typedef {x_type} bt_sample; /* of a window */", ""]
    if source.batch or source.adabn:
        lines += batch_interface(source)
    for struct in context(source).nested():
        lines += [*_ABOVE.get(struct.name, ()), *struct.declaration().splitlines(), ""]
    lines += [
        *_RULE[source.gradients],
        "",
        *_call_interface(source, label),
        "",
        "#ifdef __cplusplus",
        "}",
        "#endif",
        "",
        "#endif",
        "",
    ]
    return "\n".join(lines)
