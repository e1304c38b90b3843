/* SPDX-License-Identifier: Apache-2.0 */
/* What a call returns. After every status but BT_OK the weights and the optimizer's state are
 * what they were before the call; model.h says so where gradients without tensors of their own
 * make an exception. */
#ifndef BT_STATUS_H
#define BT_STATUS_H

typedef enum bt_status {
  BT_OK = 0,                  /* done */
  BT_ERR_LABEL,               /* label not in 0 .. classes-1: sample ignored; weights unchanged */
  BT_ERR_INPUT_NONFINITE,     /* NaN or infinity in the input: sample ignored; weights unchanged */
  BT_ERR_INPUT_FLAT,          /* a channel is constant (electrode off?): sample ignored; weights unchanged */
  BT_ERR_LOSS_NONFINITE,      /* loss is NaN or infinite: sample not accumulated; weights unchanged */
  BT_ERR_GRADIENT_NONFINITE,  /* NaN or infinity in a gradient: group dropped; weights unchanged */
  BT_ERR_GRADIENT_SKIPPED,    /* NaN or infinity in a gradient or what it would leave: that parameter unchanged, others updated */
  BT_ERR_GROUP,               /* a group's size is announced late, or is zero; weights unchanged */
  BT_ERR_NO_GRADIENT,         /* step asked with no sample accumulated; weights unchanged */
  BT_ERR_BUSY,                /* a sample in slices is not finished: call refused; weights unchanged */
  BT_ERR_CHECKPOINT_SHORT,    /* fewer bytes than it says or needs; weights unchanged */
  BT_ERR_CHECKPOINT_FOREIGN,  /* none, or of another model or version; weights unchanged */
  BT_ERR_CHECKPOINT_CORRUPT,  /* CRC does not fit (power cut, worn flash); weights unchanged */
  BT_ERR_CHECKPOINT_WRITE,    /* storage refused a write: slot invalid; weights unchanged */
  BT_ERR_STORE_SPACE,         /* flash too small for windows of this size; weights unchanged */
  BT_ERR_STORE_FLASH,         /* flash refused, or does not hold what was written; weights unchanged */
  BT_ERR_STORE_INDEX,         /* no window of that number in the store; weights unchanged */
  BT_ERR_STORE_CORRUPT,       /* a stored window's CRC does not fit any more; weights unchanged */
  BT_MORE,                    /* a call in slices is not done: call again; weights unchanged */
  BT_ERR_INPUT_SATURATED,     /* a channel at an end of the converter's range: window ignored; weights unchanged */
  BT_ERR_OUTPUT_NONFINITE,    /* NaN or infinity in the logits: no prediction; weights unchanged */
  BT_ERR_LIVE_FEW,            /* too few stored windows for a calibration; weights unchanged */
  BT_ERR_STATISTICS,          /* the statistics of the windows overflow; those of before stay */
  BT_ERR_RATE,                /* learning rate not finite, negative or too large; weights unchanged */
  BT_ERR_WEIGHT_NONFINITE,    /* the step would leave NaN or infinity: group dropped; weights unchanged */
  BT_STATUS_COUNT             /* how many there are; never returned */
} bt_status;

/* One line for a log. */
static inline const char *bt_status_text(bt_status status)
{
  switch (status) {
  case BT_OK: return "done";
  case BT_ERR_LABEL: return "label out of range: sample ignored";
  case BT_ERR_INPUT_NONFINITE: return "NaN or infinity in the input: sample ignored";
  case BT_ERR_INPUT_FLAT: return "flat channel in the input (electrode off?): sample ignored";
  case BT_ERR_LOSS_NONFINITE: return "loss is NaN or infinite: sample not accumulated";
  case BT_ERR_GRADIENT_NONFINITE: return "NaN or infinity in a gradient: group dropped";
  case BT_ERR_GRADIENT_SKIPPED: return "NaN or infinity in a gradient: its parameter not updated";
  case BT_ERR_GROUP: return "a group's size is announced before its first window, and not zero";
  case BT_ERR_NO_GRADIENT: return "no sample accumulated: nothing to step with";
  case BT_ERR_BUSY: return "a sample in slices is not finished: finish it first";
  case BT_ERR_CHECKPOINT_SHORT: return "checkpoint is cut short, or its buffer is too small";
  case BT_ERR_CHECKPOINT_FOREIGN: return "no checkpoint, or one of another model or version";
  case BT_ERR_CHECKPOINT_CORRUPT: return "checkpoint is corrupt: its CRC does not fit";
  case BT_ERR_CHECKPOINT_WRITE: return "storage refused to write the checkpoint";
  case BT_ERR_STORE_SPACE: return "flash is too small for windows of this size";
  case BT_ERR_STORE_FLASH: return "flash refused, or does not hold what was written to it";
  case BT_ERR_STORE_INDEX: return "the store has no window of that number";
  case BT_ERR_STORE_CORRUPT: return "a stored window is corrupt: its CRC does not fit";
  case BT_MORE: return "not done yet: call again";
  case BT_ERR_INPUT_SATURATED: return "saturated channel in the input: window ignored";
  case BT_ERR_OUTPUT_NONFINITE: return "NaN or infinity in the logits: no prediction";
  case BT_ERR_LIVE_FEW: return "too few stored windows for a calibration";
  case BT_ERR_STATISTICS: return "the statistics of the windows overflow: those of before stay";
  case BT_ERR_RATE: return "the learning rate is not finite, negative or above 1e10";
  case BT_ERR_WEIGHT_NONFINITE: return "NaN or infinity in the weights after this step: not done";
  case BT_STATUS_COUNT: break;
  }
  return "unknown status";
}

#endif
