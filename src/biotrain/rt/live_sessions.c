/* SPDX-License-Identifier: Apache-2.0 */
/* Checkpoints of the live firmware: sessions and work are written, loaded, resumed, withdrawn. */
#include "live.h"

#include "bt_live_parts.h"

/* ---- reading and writing ---- */

/* The two slots of sessions (weights) or of work (everything); both with the record. */
bt_slots bt_live_slots(bt_live *l, bool work)
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

/* Begins to write a checkpoint: `task` says of what. */
void bt_live_save(bt_live *l, uint32_t task)
{
  const bool work = task == BT_TASK_WORK;
  const bt_slots slots = bt_live_slots(l, work);
  int32_t *const newest = work ? &l->work : &l->good;
  /* Better weights of one calibration replace those that it wrote before: the other slot holds the
   * session before it. */
  const bool replaced = !work && l->good_session == l->record.session && *newest != BT_SLOT_NONE;
  const bool refused = *newest == BT_SLOT_NONE && l->counters.failures % 2u == 1u;
  const int32_t other = *newest == BT_SLOT_A || refused ? BT_SLOT_B : BT_SLOT_A;
  const int32_t slot = replaced ? *newest : other;
  const uint32_t sequence = (work ? l->work_sequence : l->good_sequence) + 1u;
  (void)bt_slots_begin(&l->save, &slots, (bt_slot)slot, sequence);
  if (replaced) {
    *newest = other; /* what is there until it is written */
    l->good_session = 0;
  }
  l->task = task;
}

/* The next slice of a checkpoint. */
bt_live_event bt_live_write(bt_live *l)
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

/* ---- what a program calls ---- */

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
  bt_live_reload(l); /* the windows are gone, and the calibration with them */
  (void)bt_slots_withdraw_both(&work);
}

bt_status bt_live_cancel(bt_live *l)
{
  if (l->mode != BT_LIVE_CALIBRATE)
    return BT_OK;
  const bt_slots slots = bt_live_slots(l, false);
  const bool found = l->good_session == l->record.session && l->good != BT_SLOT_NONE;
  bt_status status = found ? bt_slots_withdraw(&slots, (bt_slot)l->good) : BT_OK;
  const bt_slots work = bt_live_slots(l, true);
  if (bt_slots_withdraw_both(&work) != BT_OK)
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
  /* Work first, and even without a calibration under way: the next start would resume it. */
  bt_status status = bt_live_cancel(l);
  for (int work = 1; work >= 0; work--) {
    const bt_slots slots = bt_live_slots(l, work == 1);
    const bt_status done = bt_slots_factory(&slots);
    status = status == BT_OK ? done : status;
  }
  l->work = BT_SLOT_NONE;
  bt_live_reload(l);
  return status;
}
