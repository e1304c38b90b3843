/* SPDX-License-Identifier: Apache-2.0 */
#include "session.h"
#include "session_layout.h"

#ifdef BT_TARGETS /* the loss compares with values, not with a class */
#define BT_TARGET session.values
#define BT_GIVEN const float **target
#define BT_GIVE *target = session.values
#else
#define BT_TARGET session.label
#define BT_GIVEN int32_t *label
#define BT_GIVE *label = session.label
#endif

#ifndef BT_CONTEXT_PLACE
#define BT_CONTEXT_PLACE /* where the context of a model with two memories lies */
#endif
bt_session session BT_CONTEXT_PLACE;

/* Where an emulator stops the core. */
__attribute__((noinline)) void bt_idle(void);

void bt_idle(void)
{
  __asm__ volatile("" ::: "memory");
}

static void bt_wait(void)
{
  session.command = BT_DO_NOTHING;
  while (session.command == BT_DO_NOTHING)
    bt_idle();
}

#if defined BT_BATCH || defined BT_ADABN_MOST
static bt_status bt_ask(void *context, uint32_t index, bt_sample *place, const bt_sample **x,
                        BT_GIVEN)
{
  (void)context;
  session.index = index;
  session.slot = place;
  session.asked = 1;
  bt_wait();
  session.asked = 0;
  *x = place;
  BT_GIVE;
  return BT_OK;
}
#endif

static bt_status bt_do(bt_session *s)
{
  bt_model *const m = &s->model;
  switch ((bt_command)s->command) {
  case BT_DO_INIT:
    bt_init(m);
    return BT_OK;
  case BT_DO_BEGIN:
    return bt_begin(m, s->count, s->value);
#ifdef BT_BATCH
  case BT_DO_TRAIN_BATCH: {
    const bt_source source = {bt_ask, 0};
    return bt_train_batch(m, &source, s->count, &s->value);
  }
#else
  case BT_DO_TRAIN:
    return bt_train_sample(m, bt_window(m), BT_TARGET, &s->value);
#endif
#ifdef BT_ADABN_MOST
  case BT_DO_ADABN: {
    const bt_source source = {bt_ask, 0};
    return bt_adabn(m, &source, s->count);
  }
#endif
  case BT_DO_STEP:
    return bt_step(m);
  case BT_DO_DROP:
    bt_drop(m);
    return BT_OK;
  case BT_DO_PREDICT:
    return bt_predict(m, bt_window(m), s->values);
  case BT_DO_CRC32:
    s->count = bt_weights_crc32(m);
    return BT_OK;
  case BT_DO_SAVE: {
    const uint32_t room = s->count;
    s->count = (uint32_t)bt_save_bytes();
    return bt_save(m, s->slot, room);
  }
  case BT_DO_LOAD:
    return bt_load(m, s->slot, s->count);
#ifdef BT_GROUPED
  case BT_DO_GROUP:
    return bt_group(m, s->count);
#endif
#ifdef BT_FEATURES
  case BT_DO_FEATURES:
    return bt_features(m, bt_window(m), s->slot);
  case BT_DO_TRAIN_FEATURES:
    return bt_train_features(m, s->slot, BT_TARGET, &s->value);
#endif
  default:
    return BT_STATUS_COUNT; /* not in this model */
  }
}

int main(void)
{
  bt_init(&session.model);
  for (;;) {
    bt_wait();
    session.status = (uint32_t)bt_do(&session);
  }
}
