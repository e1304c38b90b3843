/* SPDX-License-Identifier: Apache-2.0 */
/* The live firmware: frames, windows, guards, predictions, and what is worked on next. bt_live.h
 * says how it is used; calibrations are in live_learn.c, checkpoints in live_sessions.c. */
#include "live.h"

#include "bt_kernel.h"
#include "bt_live_parts.h"
#include "bt_string.h"
#include "live_layout.h"

#define BT_LIVE_GAP 0x80u    /* flag of a frame in the ring: frames were lost before it */
#define BT_LIVE_AVERAGED 32u /* predictions that the running confidence averages over */

/* Keeps the compiler from moving reads of the ring behind the word that gives the place free. */
#if defined(__GNUC__)
#define BT_LIVE_BARRIER() __asm__ volatile("" ::: "memory")
#else
#define BT_LIVE_BARRIER() ((void)0)
#endif

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
  l->labels[l->label_in] = (uint8_t)((uint32_t)(label + 1) | (l->gap ? BT_LIVE_GAP : 0u));
  l->label_in = l->label_in + 1u == BT_LIVE_WAIT ? 0u : l->label_in + 1u;
  l->gap = 0;
  l->in = l->in + 1u == BT_LIVE_RING ? 0u : l->in + 1u;
  BT_LIVE_BARRIER();
  l->pushed++;
}

void bt_live_gap(bt_live *l)
{
  l->gap = 1;
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
  const uint8_t mark = l->labels[l->label_out];
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
  l->label_out = l->label_out + 1u == BT_LIVE_WAIT ? 0u : l->label_out + 1u;
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

#if BT_LIVE_ARTEFACTS > 0
/* Whether the newest window is an artefact, in any channel. */
static bool bt_live_screen(bt_live *l, const int16_t *x)
{
  bool artefact = false;
  for (uint32_t c = 0; c < BT_LIVE_CHANS; c++, x += BT_INPUT_TIMES) {
    const uint32_t level = bt_screen_level(x, BT_INPUT_TIMES);
    artefact = bt_screen_judge(l->powers[c], level, BT_LIVE_ARTEFACTS) || artefact;
  }
  return artefact;
}
#endif

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
  l->confidence += (sure - l->confidence) / (float)BT_LIVE_AVERAGED;
  l->predictions++;
  if (!(l->drift > 0.0f) || l->predictions < BT_LIVE_AVERAGED ||
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
static bt_live_event bt_live_predict(bt_live *l, uint32_t *left)
{
  bt_model *const m = &l->model;
  float loss;
  if (l->due == 1u) {
    bt_live_window(l, bt_predict_window(m));
#if BT_LIVE_ARTEFACTS > 0
    l->artefact = bt_live_screen(l, bt_predict_window(m)) ? 1u : 0u;
#endif
    m->predict_slice.open = 0;
    if (l->task == BT_TASK_EVALUATE)
      bt_live_unread(l); /* the held-back window in the same arena is lost */
    l->due = 2;
    l->left = l->left > BT_LIVE_WINDOW_CYCLES ? l->left - BT_LIVE_WINDOW_CYCLES : 0;
    if (l->left == 0u)
      return BT_LIVE_IDLE;
  }
  const bt_status status = bt_predict_slice(m, bt_predict_window(m), l->logits, *left);
  *left = m->predict_slice.left;
  if (status == BT_MORE)
    return BT_LIVE_IDLE;
  l->due = 0;
  if (status != BT_OK) {
    l->counters.nonfinite++;
    l->status = (uint32_t)status;
    return BT_LIVE_REFUSED;
  }
  l->storing = l->label >= 0 ? 1 : 0;
#if BT_LIVE_ARTEFACTS > 0
  l->outliers += l->storing & l->artefact;
  l->storing &= ~l->artefact;
#endif
  l->counters.predicted++;
  bt_live_watch(l, bt_live_softmax(l->logits, 0, &l->predicted, &loss));
  return BT_LIVE_PREDICTED;
}

/* Stores the newest window. */
static bt_live_event bt_live_store(bt_live *l)
{
  l->storing = 0;
  bt_status status = BT_ERR_STORE_SPACE;
  if (l->store_ok && (l->mode != BT_LIVE_CALIBRATE || bt_store_has_room(&l->store))) {
    l->model.predict_slice.open = 0;
    if (l->task == BT_TASK_EVALUATE)
      bt_live_unread(l);
    bt_live_window(l, bt_predict_window(&l->model));
    status = bt_store_append(&l->store, bt_predict_window(&l->model), l->label);
    l->counters.worn = l->store.worn;
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
  l->repeats = BT_LIVE_REPEATS;
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
  l->counters.worn = l->store.worn;
  bt_live_reload(l);
  bt_live_resume(l);
  return status;
}

/* One slice of what comes first: the newest window, then frames, then the calibration. `over`: the
 * cycles are used up; `idle`: nothing was left to do. */
static bt_live_event bt_live_next(bt_live *l, bool *over, bool *idle)
{
  bt_live_event event = BT_LIVE_IDLE;
  if (l->due) {
    event = bt_live_predict(l, &l->left);
    *over = event == BT_LIVE_IDLE;
  } else if (l->storing) {
    event = bt_live_store(l);
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
    const bt_live_event event = bt_live_next(l, &over, &idle);
    if (event != BT_LIVE_IDLE)
      return event;
  } while (!over && !idle && l->left > 0u);
  return idle ? BT_LIVE_IDLE : BT_LIVE_MORE;
}
