/* SPDX-License-Identifier: Apache-2.0 */
/* The calibration of a device that lives: an epoch in slices, the held-back windows, checkpoints. */
#include "live.h"

#include "bt_kernel.h"
#include "bt_live_parts.h"

#define BT_LIVE_HELD 0xffffffffu /* "epoch" of the permutation that chooses what is held back */

/* ---- checkpoints ---- */

/* The two slots of sessions (weights) or of work (everything); both with the record. */
static bt_slots bt_live_slots(bt_live *l, bool work)
{
  size_t count = work ? bt_state_segments(&l->model, l->segments)
                      : bt_weight_segments(&l->model, l->segments);
  l->segments[count++] = (bt_segment){&l->record, sizeof l->record};
  const uint32_t sessions = BT_LIVE_FIRST_PAGE + BT_LIVE_STORE_PAGES;
  return (bt_slots){&l->flash,
                    work ? sessions + BT_LIVE_SESSION_PAGES : sessions,
                    work ? BT_LIVE_WORK_PAGES : BT_LIVE_SESSION_PAGES,
                    l->segments,
                    count,
                    BT_FINGERPRINT};
}

/* Weights of the newest session, or the factory's; forgets what is half done. */
void bt_live_reload(bt_live *l)
{
  const bt_slots slots = bt_live_slots(l, false);
  const bt_live_record none = {0};
  l->good = (int32_t)bt_slots_newest(&slots, &l->good_sequence);
  l->record = none;
  bt_init(&l->model);
  if (l->good != BT_SLOT_NONE && bt_slots_load(&slots) != BT_OK) {
    l->good = BT_SLOT_NONE;
    l->record = none;
    bt_init(&l->model);
  }
  l->good_session = l->record.session;
  l->mode = l->good == BT_SLOT_NONE ? BT_LIVE_RECORD : BT_LIVE_USE;
  l->task = BT_TASK_NONE;
  l->told = l->predictions = 0;
  bt_live_unread(l);
  l->due = l->due ? 1 : 0;
  l->confidence = l->record.confidence;
}

/* ---- a calibration ---- */

/* The windows of the calibration are those that were stored before it: so the set stays the same when
 * power comes back, and when windows are stored meanwhile. */
static uint32_t bt_live_freeze(bt_live *l)
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

/* Goes on reading the window at a place of the held-back ones, or of the epoch. */
static bt_status bt_live_read(bt_live *l, bool held, int16_t *x, uint32_t *left)
{
  const bt_live_record *r = &l->record;
  const uint32_t key = l->seed ^ bt_mixed(r->session);
  const uint32_t place =
      held ? l->at : r->held + bt_shuffled(r->windows, key, r->epoch, l->at);
  const uint32_t index = bt_shuffled(r->held + r->windows, key, BT_LIVE_HELD, place);
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

static void bt_live_judge(bt_live *l)
{
  l->at = l->right = l->judged = 0;
  bt_live_unread(l);
  l->loss = l->sure = 0.0f;
  l->task = BT_TASK_JUDGE;
}

static void bt_live_epoch(bt_live *l)
{
  l->at = 0;
  bt_live_unread(l);
  l->task = BT_TASK_TRAIN;
}

static void bt_live_save(bt_live *l, uint32_t task)
{
  const bool work = task == BT_TASK_WORK;
  const bt_slots slots = bt_live_slots(l, work);
  int32_t *const newest = work ? &l->work : &l->good;
  /* Better weights of one calibration take the place of those before: the other slot has the session
   * before it. */
  const bool again = !work && l->good_session == l->record.session && *newest != BT_SLOT_NONE;
  const int32_t other = *newest == BT_SLOT_A ? BT_SLOT_B : BT_SLOT_A;
  const int32_t slot = again ? *newest : other;
  const uint32_t sequence = (work ? l->work_sequence : l->good_sequence) + 1u;
  (void)bt_slots_begin(&l->save, &slots, (bt_slot)slot, sequence);
  if (again) {
    *newest = other; /* what is there until it is written */
    l->good_session = 0;
  }
  l->task = task;
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
  const uint32_t groups = (l->record.windows + BT_GROUP - 1u) / BT_GROUP;
  const bt_status status = bt_begin(&l->model, l->epochs * groups, l->rate);
  if (status != BT_OK)
    return status;
  l->mode = BT_LIVE_CALIBRATE;
  l->counters.calibrations++;
  if (l->record.held > 0u)
    bt_live_judge(l);
  else
    bt_live_save(l, BT_TASK_WORK);
  return BT_OK;
}

/* What stands behind an epoch and its judgement: on, or to the end. */
static void bt_live_onward(bt_live *l)
{
  const bt_live_record *r = &l->record;
  if (r->epoch < l->epochs && (l->patience == 0u || r->stale < l->patience))
    bt_live_epoch(l);
  else
    l->task = BT_TASK_FINISH;
}

/* The held-back windows are through. */
static void bt_live_judged(bt_live *l)
{
  bt_live_record *r = &l->record;
  const float n = l->judged > 0u ? (float)l->judged : 1.0f;
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

/* The best weights, or those before. */
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
    l->record.limit = r.limit; /* what was tried with these windows is not tried again by itself */
  const bt_slots work = bt_live_slots(l, true);
  (void)bt_slots_factory(&work);
  l->work = BT_SLOT_NONE;
}

/* Largest probability of the logits; *loss: minus the logarithm of that of `label`. */
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

bool bt_live_finite(const float *logits)
{
  for (int i = 0; i < BT_OUTPUTS; i++)
    if (!bt_isfinite(logits[i]))
      return false;
  return true;
}

/* One held-back window; true: the cycles are used up. */
static bool bt_live_judge_one(bt_live *l, uint32_t *left)
{
  bt_model *const m = &l->model;
  float logits[BT_OUTPUTS], loss;
  int32_t best;
  if (!l->read) {
    m->look.open = 0;
    const bt_status got = bt_live_read(l, true, bt_predict_window(m), left);
    if (got != BT_OK && got != BT_MORE)
      l->at++;
    if (got != BT_OK || *left == 0u)
      return got == BT_MORE || *left == 0u;
  }
  const bt_status status = bt_predict_slice(m, bt_predict_window(m), logits, *left);
  *left = m->look.left;
  if (status == BT_MORE)
    return true;
  bt_live_unread(l);
  l->at++;
  if (status != BT_OK || !bt_live_finite(logits)) {
    l->loss += 100.0f; /* as bad as it gets */
    l->judged++;
    return false;
  }
  l->sure += bt_live_softmax(logits, l->truth, &best, &loss);
  l->right += best == l->truth ? 1u : 0u;
  l->loss += loss;
  l->judged++;
  return false;
}

/* A window of the epoch; true: the cycles are used up. */
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

static bool bt_live_step(bt_live *l, uint32_t *left)
{
  bt_model *const m = &l->model;
  m->slice.left = *left; /* where there is nothing to step with */
  const bt_status status = bt_step_slice(m, *left);
  *left = m->slice.left;
  l->counters.slices++;
  if (status == BT_MORE)
    return true;
  l->counters.steps += status == BT_OK ? 1u : 0u;
  l->counters.gradients += status == BT_ERR_GRADIENT_NONFINITE ? 1u : 0u;
  if (status != BT_OK)
    l->status = (uint32_t)status;
  if (l->at < l->record.windows) {
    l->task = BT_TASK_TRAIN;
    return false;
  }
  l->record.epoch++;
  if (l->record.held > 0u) {
    bt_live_judge(l);
  } else if (l->record.epoch == l->epochs) {
    l->record.found = 1;
    bt_live_save(l, BT_TASK_GOOD);
  } else {
    bt_live_save(l, BT_TASK_WORK);
  }
  return false;
}

/* A piece of a checkpoint. */
static bt_live_event bt_live_write(bt_live *l)
{
  const bool work = l->task == BT_TASK_WORK;
  const bt_status status = bt_slots_more(&l->save);
  bt_live_record *r = &l->record;
  if (status == BT_MORE)
    return BT_LIVE_IDLE;
  if (status == BT_OK) {
    l->counters.checkpoints++;
    *(work ? &l->work : &l->good) = l->save.slot;
    *(work ? &l->work_sequence : &l->good_sequence) = l->save.sequence;
    l->good_session = work ? l->good_session : r->session;
  } else {
    l->counters.failures++;
    l->status = (uint32_t)status;
    if (!work) { /* there are no better weights then */
      r->found = 0;
      r->right = r->right_before;
      r->loss = r->loss_before;
    }
  }
  if (work)
    bt_live_onward(l);
  else
    bt_live_save(l, BT_TASK_WORK);
  return status == BT_OK ? BT_LIVE_IDLE : BT_LIVE_FAILED;
}

/* A piece of the calibration; true: the cycles are used up. */
bool bt_live_learn(bt_live *l, uint32_t *left, bt_live_event *event)
{
  switch ((bt_live_task)l->task) {
  case BT_TASK_JUDGE:
    if (l->at == l->record.held)
      bt_live_judged(l);
    else
      return bt_live_judge_one(l, left);
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
    bt_live_finish(l);
    *event = BT_LIVE_CALIBRATED;
    return false;
  case BT_TASK_NONE:
    break;
  }
  return false;
}

/* ---- what a program calls ---- */

/* A calibration that a power cut has ended goes on from its last checkpoint. */
void bt_live_resume(bt_live *l)
{
  const bt_slots work = bt_live_slots(l, true);
  l->work = (int32_t)bt_slots_newest(&work, &l->work_sequence);
  if (l->work == BT_SLOT_NONE || !l->store_ok)
    return;
  const bool loaded = bt_slots_load(&work) == BT_OK;
  if (loaded && bt_live_freeze(l) == l->record.held + l->record.windows && l->record.windows > 0u) {
    l->mode = BT_LIVE_CALIBRATE;
    l->counters.calibrations++;
    bt_live_onward(l);
    return;
  }
  bt_live_reload(l); /* the windows are gone: so is the calibration */
  (void)bt_slots_factory(&work);
}

bt_status bt_live_cancel(bt_live *l)
{
  if (l->mode != BT_LIVE_CALIBRATE)
    return BT_OK;
  const bt_slots slots = bt_live_slots(l, false);
  const bool found = l->good_session == l->record.session && l->good != BT_SLOT_NONE;
  bt_status status = found ? bt_slots_withdraw(&slots, (bt_slot)l->good) : BT_OK;
  const bt_slots work = bt_live_slots(l, true);
  if (bt_slots_factory(&work) != BT_OK)
    status = BT_ERR_CHECKPOINT_WRITE;
  l->work = BT_SLOT_NONE;
  l->counters.undone++;
  bt_live_reload(l);
  return status;
}

bt_status bt_live_back(bt_live *l)
{
  bt_status status = bt_live_cancel(l);
  const bt_slots slots = bt_live_slots(l, false);
  if (status == BT_OK)
    status = bt_slots_back(&slots);
  if (status == BT_OK)
    bt_live_reload(l);
  return status;
}

bt_status bt_live_factory(bt_live *l)
{
  bt_status status = bt_live_cancel(l);
  const bt_slots slots = bt_live_slots(l, false);
  if (status == BT_OK)
    status = bt_slots_factory(&slots);
  bt_live_reload(l);
  return status;
}

bt_status bt_live_forget(bt_live *l)
{
  if (l->mode == BT_LIVE_CALIBRATE)
    return BT_ERR_BUSY;
  return l->store_ok ? bt_store_clear(&l->store) : BT_ERR_STORE_SPACE;
}
