/* SPDX-License-Identifier: Apache-2.0 */
/* The calibration of the live firmware: epochs in slices, and the held-back windows. */
#include "live.h"

#include "bt_kernel.h"
#include "bt_live_parts.h"

/* The shuffle that chooses the held-back windows counts as this epoch. */
#define BT_LIVE_HELD_EPOCH 0xffffffffu

/* ---- its windows ---- */

/* The windows of the calibration are those that were stored before it: so the set stays the same
 * when power returns, and when windows are stored meanwhile. */
uint32_t bt_live_freeze(bt_live *l)
{
  uint32_t count = 0;
  for (uint32_t i = 0; i < BT_STORE_SLOTS / 32; i++)
    l->frozen[i] = 0;
  for (uint32_t slot = 0; slot < l->store.blocks * l->store.per_block; slot++) {
    bt_store_head head;
    uint32_t crc;
    if (!bt_store_is_live(&l->store, slot) ||
        !bt_store_read_head(&l->store, slot, &head, &crc) || head.number >= l->record.limit)
      continue;
    l->frozen[slot / 32u] |= (uint32_t)1 << slot % 32u;
    count++;
  }
  return count;
}

void bt_live_unread(bt_live *l)
{
  l->read = l->reading.done = l->reading.crc = 0;
}

/* Slot of frozen window `index`. */
static uint32_t bt_live_slot(const bt_live *l, uint32_t index)
{
  for (uint32_t slot = 0; slot < BT_STORE_SLOTS; slot++)
    if ((l->frozen[slot / 32u] >> slot % 32u & 1u) != 0u && index-- == 0u)
      return slot;
  return BT_STORE_NONE;
}

/* Reads more of the window at a place of the held-back ones, or of the epoch. */
static bt_status bt_live_read(bt_live *l, bool held, int16_t *x, uint32_t *left)
{
  const bt_live_record *r = &l->record;
  const uint32_t key = l->seed ^ bt_mixed(r->session);
  const uint32_t place =
      held ? l->at : r->held + bt_shuffled(r->windows, key, r->epoch, l->at);
  const uint32_t index = bt_shuffled(r->held + r->windows, key, BT_LIVE_HELD_EPOCH, place);
  const uint32_t slot = bt_live_slot(l, index);
  bt_status status = BT_MORE;
  for (bool first = true; status == BT_MORE && (first || *left > 0u); first = false) {
    status = bt_store_read_more(&l->store, slot, x, &l->truth, &l->reading);
    *left = *left > BT_LIVE_READ_CYCLES ? *left - BT_LIVE_READ_CYCLES : 0;
  }
  if (status == BT_MORE)
    return status;
  bt_live_unread(l);
  l->read = status == BT_OK ? 1u : 0u;
  if (status != BT_OK)
    l->counters.corrupt++;
  return status;
}

/* ---- its tasks ---- */

static void bt_live_evaluate(bt_live *l)
{
  l->at = l->right = l->evaluated = 0;
  bt_live_unread(l);
  l->loss = l->sure = 0.0f;
  l->task = BT_TASK_EVALUATE;
}

static void bt_live_epoch(bt_live *l)
{
  l->at = 0;
  bt_live_unread(l);
  l->task = BT_TASK_TRAIN;
}

/* The rate of the attempt that is under way. */
static float bt_live_rate(const bt_live *l)
{
  float rate = l->rate;
  for (uint32_t i = 0; i < l->record.repeats; i++)
    rate *= 0.25f;
  return rate;
}

/* Begins the optimizer of the attempt that is under way. */
static bt_status bt_live_begin(bt_live *l)
{
  const uint32_t groups = (l->record.windows + BT_GROUP - 1u) / BT_GROUP;
  return bt_begin(&l->model, l->epochs * groups, bt_live_rate(l));
}

bt_status bt_live_calibrate(bt_live *l)
{
  if (l->mode == BT_LIVE_CALIBRATE)
    return BT_ERR_BUSY;
  const uint32_t least = l->least > 2u ? l->least : 2u;
  if (!l->store_ok || l->store.count < least)
    return BT_ERR_LIVE_FEW;
  if (!(l->rate >= 0.0f && l->rate <= BT_RATE_MOST))
    return BT_ERR_RATE;
  const bt_live_record fresh = {.session = l->record.session + 1u, .limit = l->store.number};
  l->record = fresh;
  const uint32_t count = bt_live_freeze(l);
#if BT_LIVE_HELD_BACK > 0
  l->record.held = count >= BT_LIVE_HELD_BACK ? count / BT_LIVE_HELD_BACK : 1u;
#endif
  l->record.windows = count - l->record.held;
  const bt_status status = bt_live_begin(l);
  if (status != BT_OK)
    return status;
  l->mode = BT_LIVE_CALIBRATE;
  l->counters.calibrations++;
  if (l->record.held > 0u)
    bt_live_evaluate(l);
  else
    bt_live_save(l, BT_TASK_WORK);
  return BT_OK;
}

/* After an epoch and its evaluation: the next epoch, or the end. */
void bt_live_onward(bt_live *l)
{
  const bt_live_record *r = &l->record;
  if (r->epoch < l->epochs && (l->patience == 0u || r->stale < l->patience))
    bt_live_epoch(l);
  else
    l->task = BT_TASK_FINISH;
}

/* All held-back windows are predicted: are these weights the best so far? */
static void bt_live_evaluated(bt_live *l)
{
  bt_live_record *r = &l->record;
  const float n = l->evaluated > 0u ? (float)l->evaluated : 1.0f;
  const float loss = l->loss / n, sure = l->sure / n;
  if (r->epoch == 0u) {
    r->right = r->right_before = l->right;
    r->loss = r->loss_before = loss;
    r->confidence = sure;
  } else if (l->right > r->right || (l->right == r->right && loss < r->loss)) {
    r->right = l->right;
    r->loss = loss;
    r->confidence = sure;
    r->found = 1;
    r->stale = 0;
    bt_live_save(l, BT_TASK_GOOD);
    return;
  } else {
    r->stale++;
  }
  bt_live_save(l, BT_TASK_WORK);
}

/* A calibration that has found no better weights begins anew, from the weights before and at a
 * quarter of the rate; false: it has ended. */
static bool bt_live_again(bt_live *l)
{
  const bt_live_record r = l->record;
  if (r.found || r.held == 0u || r.repeats >= l->repeats)
    return false;
  bt_live_reload(l);
  const bt_live_record anew = {.session = r.session,
                               .limit = r.limit,
                               .windows = r.windows,
                               .held = r.held,
                               .repeats = r.repeats + 1u};
  l->record = anew;
  if (bt_live_begin(l) != BT_OK)
    return false;
  l->mode = BT_LIVE_CALIBRATE;
  l->counters.repeated++;
  bt_live_evaluate(l);
  return true;
}

/* The end: the best weights are loaded, or those before. */
static void bt_live_finish(bt_live *l)
{
  const bt_live_record r = l->record;
  const float held = r.held > 0u ? (float)r.held : 1.0f;
  bt_live_reload(l);
  l->kept = r.found && l->good_session == r.session;
  l->before = (float)r.right_before / held;
  l->best = (float)r.right / held;
  l->counters.kept += l->kept;
  l->counters.undone += 1u - l->kept;
  if (!l->kept)
    l->record.limit = r.limit; /* drift does not begin a calibration with the same windows */
  const bt_slots work = bt_live_slots(l, true);
  (void)bt_slots_withdraw_both(&work);
  l->work = BT_SLOT_NONE;
}

float bt_live_softmax(const float *logits, int32_t label, int32_t *best, float *loss)
{
  int32_t most = 0;
  for (int32_t i = 1; i < BT_OUTPUTS; i++)
    if (logits[i] > logits[most])
      most = i;
  float sum = 0.0f;
  for (int32_t i = 0; i < BT_OUTPUTS; i++)
    sum += bt_expf(logits[i] - logits[most]);
  *best = most;
  *loss = bt_logf(sum) + logits[most] - logits[label];
  return 1.0f / sum;
}

/* Predicts one held-back window; true: the cycles are used up. */
static bool bt_live_evaluate_one(bt_live *l, uint32_t *left)
{
  bt_model *const m = &l->model;
  float logits[BT_OUTPUTS], loss;
  int32_t best;
  if (!l->read) {
    m->predict_slice.open = 0;
    const bt_status got = bt_live_read(l, true, bt_predict_window(m), left);
    if (got != BT_OK && got != BT_MORE)
      l->at++;
    if (got != BT_OK || *left == 0u)
      return got == BT_MORE || *left == 0u;
  }
  const bt_status status = bt_predict_slice(m, bt_predict_window(m), logits, *left);
  *left = m->predict_slice.left;
  if (status == BT_MORE)
    return true;
  bt_live_unread(l);
  l->at++;
  if (status != BT_OK) {
    l->loss += 100.0f; /* instead of infinity: such weights are never the best */
    l->evaluated++;
    return false;
  }
  l->sure += bt_live_softmax(logits, l->truth, &best, &loss);
  l->right += best == l->truth ? 1u : 0u;
  l->loss += loss;
  l->evaluated++;
  return false;
}

/* Trains on one window of the epoch; true: the cycles are used up. */
static bool bt_live_train(bt_live *l, uint32_t *left)
{
  bt_model *const m = &l->model;
  float loss;
  bt_status status = BT_OK;
  if (!m->slice.open && !l->read) {
#ifdef BT_GROUPED
    if (l->at % BT_GROUP == 0u && l->record.windows - l->at < BT_GROUP)
      (void)bt_group(m, l->record.windows - l->at);
#endif
    status = bt_live_read(l, false, bt_window(m), left);
    if (status == BT_MORE || (status == BT_OK && *left == 0u))
      return true;
  }
  if (status == BT_OK) {
    status = bt_train_slice(m, bt_window(m), l->truth, &loss, *left);
    *left = m->slice.left;
    l->counters.slices++;
    if (status == BT_MORE)
      return true;
    l->counters.trained += status == BT_OK ? 1u : 0u;
    l->counters.losses += status == BT_ERR_LOSS_NONFINITE ? 1u : 0u;
    l->counters.gradients += status == BT_ERR_GRADIENT_SKIPPED ? 1u : 0u;
    if (status != BT_OK)
      l->status = (uint32_t)status;
  }
  bt_live_unread(l);
  l->at++;
  if (l->at % BT_GROUP == 0u || l->at == l->record.windows)
    l->task = BT_TASK_STEP;
  return false;
}

/* The optimizer step behind a group; true: the cycles are used up. */
static bool bt_live_step(bt_live *l, uint32_t *left)
{
  bt_model *const m = &l->model;
  m->slice.left = *left; /* the call leaves it alone where no gradient is there */
  const bt_status status = bt_step_slice(m, *left);
  *left = m->slice.left;
  l->counters.slices++;
  if (status == BT_MORE)
    return true;
  l->counters.steps += status == BT_OK ? 1u : 0u;
  l->counters.gradients +=
      status == BT_ERR_GRADIENT_NONFINITE || status == BT_ERR_WEIGHT_NONFINITE ? 1u : 0u;
  if (status != BT_OK)
    l->status = (uint32_t)status;
  if (l->at < l->record.windows) {
    l->task = BT_TASK_TRAIN;
    return false;
  }
  l->record.epoch++;
  if (l->record.held > 0u) {
    bt_live_evaluate(l);
  } else if (l->record.epoch == l->epochs) {
    l->record.found = 1;
    bt_live_save(l, BT_TASK_GOOD);
  } else {
    bt_live_save(l, BT_TASK_WORK);
  }
  return false;
}

bool bt_live_learn(bt_live *l, uint32_t *left, bt_live_event *event)
{
  switch ((bt_live_task)l->task) {
  case BT_TASK_EVALUATE:
    if (l->at == l->record.held)
      bt_live_evaluated(l);
    else
      return bt_live_evaluate_one(l, left);
    return false;
  case BT_TASK_TRAIN:
    return bt_live_train(l, left);
  case BT_TASK_STEP:
    return bt_live_step(l, left);
  case BT_TASK_GOOD:
  case BT_TASK_WORK:
    *event = bt_live_write(l);
    *left = *left > BT_LIVE_WRITE_CYCLES ? *left - BT_LIVE_WRITE_CYCLES : 0;
    return false;
  case BT_TASK_FINISH:
    if (bt_live_again(l))
      return false;
    bt_live_finish(l);
    *event = BT_LIVE_CALIBRATED;
    return false;
  case BT_TASK_NONE:
    break;
  }
  return false;
}

/* ---- what a program calls ---- */

bt_status bt_live_forget(bt_live *l)
{
  if (l->mode == BT_LIVE_CALIBRATE)
    return BT_ERR_BUSY;
  return l->store_ok ? bt_store_clear(&l->store) : BT_ERR_STORE_SPACE;
}
