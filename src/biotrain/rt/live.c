/* SPDX-License-Identifier: Apache-2.0 */
/* The life of a device; bt_live.h says what it does. */
#include "live.h"

#include "bt_kernel.h"
#include "bt_string.h"

#define BT_LIVE_GAP 0x80u    /* flag of a frame in the ring */
#define BT_LIVE_HELD 0xffffffffu /* "epoch" of the permutation that chooses what is held back */
#define BT_LIVE_SURE 32u     /* predictions that the running confidence looks back on */

/* Keeps the compiler from moving reads of the ring behind the word that gives the place free. */
#if defined(__GNUC__)
#define BT_LIVE_BARRIER() __asm__ volatile("" ::: "memory")
#else
#define BT_LIVE_BARRIER() ((void)0)
#endif

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
static void bt_live_reload(bt_live *l)
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
  l->judging = l->told = l->predictions = 0;
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

/* Slot of frozen window `index`. */
static uint32_t bt_live_slot(const bt_live *l, uint32_t index)
{
  for (uint32_t slot = 0; slot < BT_STORE_SLOTS; slot++)
    if ((l->frozen[slot / 32u] >> slot % 32u & 1u) != 0u && index-- == 0u)
      return slot;
  return BT_STORE_NONE;
}

/* Reads the window at a place of the held-back ones, or of the epoch. */
static bt_status bt_live_read(bt_live *l, bool held, int16_t *x, int32_t *label)
{
  const bt_live_record *r = &l->record;
  const uint32_t key = l->seed ^ bt_mixed(r->session);
  const uint32_t place =
      held ? l->at : r->held + bt_shuffled(r->windows, key, r->epoch, l->at);
  const uint32_t index = bt_shuffled(r->held + r->windows, key, BT_LIVE_HELD, place);
  const bt_status status = bt_store_read_slot(&l->store, bt_live_slot(l, index), x, label);
  if (status != BT_OK)
    l->counters.corrupt++;
  return status;
}

static void bt_live_judge(bt_live *l)
{
  l->at = l->right = l->judged = l->judging = 0;
  l->loss = l->sure = 0.0f;
  l->task = BT_TASK_JUDGE;
}

static void bt_live_epoch(bt_live *l)
{
  l->at = 0;
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
  const bt_live_record fresh = {.session = l->record.session + 1u, .limit = l->store.number};
  l->record = fresh;
  const uint32_t count = bt_live_freeze(l);
#if BT_LIVE_HELD_BACK > 0
  l->record.held = count >= BT_LIVE_HELD_BACK ? count / BT_LIVE_HELD_BACK : 1u;
#endif
  l->record.windows = count - l->record.held;
  bt_begin(&l->model, l->epochs * ((l->record.windows + BT_GROUP - 1u) / BT_GROUP), l->rate);
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
static float bt_live_softmax(const float *logits, int32_t label, int32_t *best, float *loss)
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

static bool bt_live_finite(const float *logits)
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
  if (!l->judging) {
    m->look.open = 0;
    if (bt_live_read(l, true, bt_predict_window(m), &l->truth) != BT_OK) {
      l->at++;
      return false;
    }
    l->judging = 1;
  }
  const bt_status status = bt_predict_slice(m, bt_predict_window(m), logits, *left);
  *left = m->look.left;
  if (status == BT_MORE)
    return true;
  l->judging = 0;
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
  int32_t label = 0;
  bt_status status = BT_OK;
  if (!m->slice.open) {
#ifdef BT_GROUPED
    if (l->at % BT_GROUP == 0u && l->record.windows - l->at < BT_GROUP)
      (void)bt_group(m, l->record.windows - l->at);
#endif
    status = bt_live_read(l, false, bt_window(m), &label);
  }
  if (status == BT_OK) {
    status = bt_train_slice(m, bt_window(m), label, &loss, *left);
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

/* ---- signals ---- */

void bt_live_push(bt_live *l, const bt_raw frame[BT_LIVE_CHANS], int32_t label)
{
  if (l->pushed - l->taken >= BT_LIVE_WAIT) {
    l->lost++;
    l->gap = 1;
    return;
  }
  if (label < -1 || label >= BT_OUTPUTS) {
    l->unknown++;
    label = -1;
  }
  for (int c = 0; c < BT_LIVE_CHANS; c++)
    l->ring[l->in][c] = frame[c];
  l->labels[l->pushed % BT_LIVE_WAIT] = (uint8_t)((uint32_t)(label + 1) | (l->gap ? BT_LIVE_GAP : 0u));
  l->gap = 0;
  l->in = l->in + 1u == BT_LIVE_RING ? 0u : l->in + 1u;
  BT_LIVE_BARRIER();
  l->pushed++;
}

static void bt_live_begin(bt_live *l)
{
  l->frames = l->same = 0;
  l->next = BT_INPUT_TIMES;
  for (int c = 0; c < BT_LIVE_CHANS; c++) {
    l->still[c] = 0;
    l->clipped[c] = BT_LIVE_SPAN;
  }
#if BT_LIVE_FRONT
  bt_front_init(&l->front);
#endif
}

/* Takes a frame out of the ring; true: it completes a window. */
static bool bt_live_take(bt_live *l)
{
  const uint8_t mark = l->labels[l->taken % BT_LIVE_WAIT];
  const int32_t label = (int32_t)(mark & ~BT_LIVE_GAP) - 1;
  const bt_raw *const frame = l->ring[l->out];
  if ((mark & BT_LIVE_GAP) != 0u)
    bt_live_begin(l);
  for (int c = 0; c < BT_LIVE_CHANS; c++) {
    const bool moved = l->frames == 0u || frame[c] != l->last[c];
    const bool clipped = frame[c] <= BT_LIVE_LOW || frame[c] >= BT_LIVE_HIGH;
    l->still[c] = moved ? 0u : l->still[c] + (l->still[c] < BT_LIVE_SPAN ? 1u : 0u);
    l->clipped[c] = clipped ? 0u : l->clipped[c] + (l->clipped[c] < BT_LIVE_SPAN ? 1u : 0u);
    l->last[c] = frame[c];
  }
  l->same = label == l->holds ? l->same + (l->same < BT_LIVE_SPAN ? 1u : 0u) : 1u;
  l->holds = label;
  l->frames++;
  l->counters.frames++;
#if !BT_LIVE_FRONT
  const bool whole = --l->next == 0u;
  l->next = whole ? BT_LIVE_HOP : l->next;
#elif BT_LIVE_WIDE
  const bool whole = bt_front_push(&l->front, frame) != 0;
#else
  const bool whole = bt_front_push16(&l->front, frame) != 0;
#endif
  l->out = l->out + 1u == BT_LIVE_RING ? 0u : l->out + 1u;
  BT_LIVE_BARRIER();
  l->taken++;
  return whole;
}

#if BT_LIVE_FRONT && !BT_FRONT_INT16
/* The nearest of the package's integers, halves to even. */
static int16_t bt_live_integer(float x)
{
  const float v = bt_maxf(bt_minf(x * BT_LIVE_STEPS, 32767.0f), -32767.0f);
  return (int16_t)((v + 12582912.0f) - 12582912.0f);
}
#endif

/* The newest window, oldest sample first. */
static void bt_live_window(bt_live *l, int16_t *x)
{
#if BT_LIVE_FRONT && BT_FRONT_INT16
  bt_front_window(&l->front, x);
#elif BT_LIVE_FRONT
  const bt_front *const f = &l->front;
  for (int c = 0; c < BT_LIVE_CHANS; c++, x += BT_INPUT_TIMES) {
#if BT_FRONT_WHOLE
    for (uint32_t t = 0; t < BT_INPUT_TIMES; t++)
      l->row[t] = f->ring[c][(f->at + t) % BT_INPUT_TIMES];
    bt_front_whiten(l->row);
    for (uint32_t t = 0; t < BT_INPUT_TIMES; t++)
      x[t] = bt_live_integer(l->row[t]);
#else
    for (uint32_t t = 0; t < BT_INPUT_TIMES; t++)
      x[t] = bt_live_integer(f->ring[c][(f->at + t) % BT_INPUT_TIMES]);
#endif
  }
#else
  uint32_t at = (l->out + BT_LIVE_RING - BT_INPUT_TIMES) % BT_LIVE_RING;
  for (uint32_t t = 0; t < BT_INPUT_TIMES; t++) {
    for (uint32_t c = 0; c < BT_LIVE_CHANS; c++)
      x[c * BT_INPUT_TIMES + t] = l->ring[at][c];
    at = at + 1u == BT_LIVE_RING ? 0u : at + 1u;
  }
#endif
}

/* Why the newest window is no good, and in which channel. */
static bt_status bt_live_guard(bt_live *l)
{
  for (uint32_t c = 0; l->guards && c < BT_LIVE_CHANS; c++) {
    l->channel = c;
    if (l->still[c] + 1u >= BT_LIVE_SPAN) {
      l->counters.flat++;
      return BT_ERR_INPUT_FLAT;
    }
    if (l->clipped[c] < BT_LIVE_SPAN) {
      l->counters.saturated++;
      return BT_ERR_INPUT_SATURATED;
    }
  }
  return BT_OK;
}

/* A window is there: is it to be predicted? */
static bt_live_event bt_live_arrived(bt_live *l)
{
  l->window = l->counters.windows++;
  l->label = l->same >= BT_LIVE_SPAN ? l->holds : -1;
  const bt_status status = bt_live_guard(l);
  if (status != BT_OK) {
    l->status = (uint32_t)status;
    return BT_LIVE_REFUSED;
  }
  l->due = 1;
  return BT_LIVE_IDLE;
}

/* Confidence, and what follows from its fall. */
static void bt_live_watch(bt_live *l, float sure)
{
  if (l->mode != BT_LIVE_USE)
    return;
  l->confidence += (sure - l->confidence) / (float)BT_LIVE_SURE;
  l->predictions++;
  if (!(l->drift > 0.0f) || l->predictions < BT_LIVE_SURE ||
      !(l->confidence < l->record.confidence - l->drift))
    return;
  if (!l->told) {
    l->told = 1;
    l->counters.drifts++;
    l->tell = BT_LIVE_DRIFTED;
  }
  if (l->automatic && l->store.number - l->record.limit >= l->least)
    (void)bt_live_calibrate(l);
}

/* Predicts the newest window; BT_LIVE_IDLE: the cycles are used up. */
static bt_live_event bt_live_look(bt_live *l, uint32_t *left)
{
  bt_model *const m = &l->model;
  float loss;
  if (l->due == 1u) {
    bt_live_window(l, bt_predict_window(m));
    m->look.open = 0; /* a held-back window begins again */
    l->judging = 0;
    l->due = 2;
  }
  const bt_status status = bt_predict_slice(m, bt_predict_window(m), l->logits, *left);
  *left = m->look.left;
  if (status == BT_MORE)
    return BT_LIVE_IDLE;
  l->due = 0;
  if (status != BT_OK || !bt_live_finite(l->logits)) {
    l->counters.nonfinite++;
    l->status = (uint32_t)(status != BT_OK ? status : BT_ERR_OUTPUT_NONFINITE);
    return BT_LIVE_REFUSED;
  }
  l->storing = l->label >= 0 ? 1 : 0;
  l->counters.predicted++;
  bt_live_watch(l, bt_live_softmax(l->logits, 0, &l->predicted, &loss));
  return BT_LIVE_PREDICTED;
}

/* Stores the newest window. */
static bt_live_event bt_live_keep(bt_live *l)
{
  l->storing = 0;
  bt_status status = BT_ERR_STORE_SPACE;
  if (l->store_ok && (l->mode != BT_LIVE_CALIBRATE || bt_store_has_room(&l->store))) {
    l->model.look.open = 0;
    l->judging = 0;
    bt_live_window(l, bt_predict_window(&l->model));
    status = bt_store_append(&l->store, bt_predict_window(&l->model), l->label);
  }
  l->counters.stored += status == BT_OK ? 1u : 0u;
  l->counters.unstored += status == BT_OK ? 0u : 1u;
  if (status == BT_OK || status == BT_ERR_STORE_SPACE)
    return BT_LIVE_IDLE;
  l->status = (uint32_t)status;
  return BT_LIVE_FAILED;
}

/* ---- what a program calls ---- */

bt_status bt_live_start(bt_live *l, const bt_flash *flash)
{
  memset(l, 0, sizeof *l);
  l->flash = *flash;
  l->epochs = BT_LIVE_EPOCHS;
  l->patience = BT_LIVE_PATIENCE;
  l->least = BT_LIVE_LEAST;
  l->seed = BT_LIVE_SEED;
  l->rate = BT_LIVE_RATE;
  l->drift = BT_LIVE_DRIFT;
  l->automatic = BT_LIVE_AUTOMATIC;
  l->guards = 1;
  l->predicted = l->label = l->holds = -1;
  bt_live_begin(l);
  const bt_status status = bt_store_mount(&l->store, &l->flash, BT_LIVE_FIRST_PAGE,
                                          BT_LIVE_STORE_PAGES, BT_LIVE_CHANS * BT_INPUT_TIMES,
                                          BT_OUTPUTS);
  l->store_ok = status == BT_OK;
  bt_live_reload(l);
  const bt_slots work = bt_live_slots(l, true);
  l->work = (int32_t)bt_slots_newest(&work, &l->work_sequence);
  if (l->work == BT_SLOT_NONE || !l->store_ok)
    return status;
  const bool loaded = bt_slots_load(&work) == BT_OK;
  if (loaded && bt_live_freeze(l) == l->record.held + l->record.windows && l->record.windows > 0u) {
    l->mode = BT_LIVE_CALIBRATE;
    l->counters.calibrations++;
    bt_live_onward(l);
    return status;
  }
  bt_live_reload(l); /* the windows are gone: so is the calibration */
  (void)bt_slots_factory(&work);
  return status;
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

/* A piece of the calibration; true: the cycles are used up. */
static bool bt_live_learn(bt_live *l, uint32_t *left, bt_live_event *event)
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

/* One piece of whatever comes first: the newest window, frames, learning. `over`: the cycles are used
 * up; `idle`: nothing was left to do. */
static bt_live_event bt_live_piece(bt_live *l, bool *over, bool *idle)
{
  bt_live_event event = BT_LIVE_IDLE;
  if (l->due) {
    event = bt_live_look(l, &l->left);
    *over = event == BT_LIVE_IDLE;
  } else if (l->storing) {
    event = bt_live_keep(l);
  } else if (l->tell != BT_LIVE_IDLE) {
    event = (bt_live_event)l->tell;
    l->tell = BT_LIVE_IDLE;
  } else if (l->pushed != l->taken) {
    if (bt_live_take(l))
      event = bt_live_arrived(l);
    l->left = l->left > BT_LIVE_FRAME_CYCLES ? l->left - BT_LIVE_FRAME_CYCLES : 0;
  } else if (l->task != BT_TASK_NONE) {
    *over = bt_live_learn(l, &l->left, &event);
  } else {
    *idle = true;
  }
  return event;
}

bt_live_event bt_live_work(bt_live *l, uint32_t max_cycles)
{
  bool over = false, idle = false;
  l->left = max_cycles;
  l->counters.lost = l->lost;
  l->counters.labels = l->unknown;
  do {
    const bt_live_event event = bt_live_piece(l, &over, &idle);
    if (event != BT_LIVE_IDLE)
      return event;
  } while (!over && !idle && l->left > 0u);
  return idle ? BT_LIVE_IDLE : BT_LIVE_MORE;
}
