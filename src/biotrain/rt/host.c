/* SPDX-License-Identifier: Apache-2.0 */
/* Loops over windows for the host; not part of the device's package. */
#include "model.h"

#ifdef BT_TARGETS /* the loss compares with values, not with a class */
typedef float bt_host_target;
#define BT_TARGET(y, i) ((y) + (size_t)(i) * BT_TARGETS)
#define BT_TARGET_STRIDE BT_TARGETS
#else
typedef int32_t bt_host_target;
#define BT_TARGET(y, i) (y)[i]
#define BT_TARGET_STRIDE 1
#endif

#define BT_WINDOW (BT_INPUT_ROWS * BT_INPUT_TIMES)

size_t bt_host_bytes(void);
const char *bt_host_status(int status);
int bt_host_train(bt_model *m, const bt_sample *x, const bt_host_target *y, int n, int drop_last,
                  float *losses, int *at);
int bt_host_predict(bt_model *m, const bt_sample *x, int n, float *logits, int *at);

size_t bt_host_bytes(void)
{
  return sizeof(bt_model);
}

const char *bt_host_status(int status)
{
  return bt_status_text((bt_status)status);
}

int bt_host_predict(bt_model *m, const bt_sample *x, int n, float *logits, int *at)
{
  for (int i = 0; i < n; i++) {
    *at = i;
    const bt_status status =
        bt_predict(m, x + (size_t)i * BT_WINDOW, logits + (size_t)i * BT_OUTPUTS);
    if (status != BT_OK)
      return (int)status;
  }
  return BT_OK;
}

#if defined BT_BATCH || defined BT_ADABN_MOST

typedef struct bt_host_batch {
  const bt_sample *x;
  const bt_host_target *y; /* 0: nobody looks */
} bt_host_batch;

#ifdef BT_TARGETS
static bt_status bt_host_give(void *context, uint32_t index, bt_sample *place, const bt_sample **x,
                              const float **y)
#else
static bt_status bt_host_give(void *context, uint32_t index, bt_sample *place, const bt_sample **x,
                              int32_t *y)
#endif
{
  const bt_host_batch *from = context;
  (void)place;
  *x = from->x + (size_t)index * BT_WINDOW;
  if (from->y)
    *y = BT_TARGET(from->y, index);
  return BT_OK;
}

#endif

#ifdef BT_ADABN_MOST

int bt_host_adabn(bt_model *m, const bt_sample *x, uint32_t n);

int bt_host_adabn(bt_model *m, const bt_sample *x, uint32_t n)
{
  bt_host_batch from = {x, 0};
  const bt_source source = {bt_host_give, &from};
  return (int)bt_adabn(m, &source, n);
}

#endif

#ifdef BT_BATCH

int bt_host_batch_gradients(bt_model *m, const float *x, const bt_host_target *y, int n,
                            float *loss);

int bt_host_batch_gradients(bt_model *m, const float *x, const bt_host_target *y, int n,
                            float *loss)
{
  bt_host_batch from = {x, y};
  const bt_source source = {bt_host_give, &from};
  return (int)bt_train_batch(m, &source, (uint32_t)n, loss);
}

int bt_host_train(bt_model *m, const bt_sample *x, const bt_host_target *y, int n, int drop_last,
                  float *losses, int *at)
{
  int i = 0;
  for (; i < n; i += BT_BATCH) {
    const int count = n - i < BT_BATCH ? n - i : BT_BATCH;
    *at = i;
    if (count < BT_BATCH && drop_last)
      break;
    float loss;
    int status = bt_host_batch_gradients(m, x + (size_t)i * BT_WINDOW,
                                         y + (size_t)i * BT_TARGET_STRIDE, count, &loss);
    if (status == BT_OK && BT_TRAINED)
      status = (int)bt_step(m);
    if (status != BT_OK)
      return status;
    for (int k = 0; k < count; k++)
      losses[i + k] = loss;
    *at = i + count;
  }
  return BT_OK;
}

#else

/* The windows that the group under way has when it is complete. */
static uint32_t bt_host_group(const bt_model *m)
{
#ifdef BT_GROUPED
  return m->group;
#else
  (void)m;
  return BT_GROUP;
#endif
}

/* Before a window: announces a group that is cut short, where that must be. False: leave it out. */
static int bt_host_open(bt_model *m, int rest, int drop_last)
{
#ifdef BT_GROUPED
  if (m->samples == 0 && (uint32_t)rest < m->group) {
    if (drop_last)
      return 0;
    bt_group(m, (uint32_t)rest);
  }
#else
  (void)m, (void)rest, (void)drop_last;
#endif
  return 1;
}

/* After a window: the step of a group that is complete, or the last. */
static bt_status bt_host_close(bt_model *m, int last, int drop_last)
{
  if (BT_TRAINED && (m->samples >= bt_host_group(m) || (last && !drop_last)))
    return bt_step(m);
  return BT_OK;
}

/* What trains on one of `data`: windows, or features. */
typedef bt_status (*bt_host_one)(bt_model *m, const void *data, const bt_host_target *y, int i,
                                 float *loss);

static int bt_host_each(bt_model *m, bt_host_one one, const void *data, const bt_host_target *y,
                        int n, int drop_last, float *losses, int *at)
{
  int i = 0;
  for (; i < n; i++) {
    *at = i;
    if (!bt_host_open(m, n - i, drop_last))
      break;
    bt_status status = one(m, data, y, i, &losses[i]);
    if (status != BT_OK) {
      bt_drop(m);
      return (int)status;
    }
    status = bt_host_close(m, i == n - 1, drop_last);
    if (status != BT_OK)
      return (int)status;
  }
  *at = i;
  if (drop_last)
    bt_drop(m);
  return BT_OK;
}

static bt_status bt_host_window(bt_model *m, const void *data, const bt_host_target *y, int i,
                                float *loss)
{
  const bt_sample *x = data;
  return bt_train_sample(m, x + (size_t)i * BT_WINDOW, BT_TARGET(y, i), loss);
}

int bt_host_train(bt_model *m, const bt_sample *x, const bt_host_target *y, int n, int drop_last,
                  float *losses, int *at)
{
  return bt_host_each(m, bt_host_window, x, y, n, drop_last, losses, at);
}

#endif

#ifdef BT_FEATURES

int bt_host_features(bt_model *m, const bt_sample *x, int n, float *features, int *at);
int bt_host_train_features(bt_model *m, const float *features, const bt_host_target *y, int n,
                           int drop_last, float *losses, int *at);

int bt_host_features(bt_model *m, const bt_sample *x, int n, float *features, int *at)
{
  for (int i = 0; i < n; i++) {
    *at = i;
    const bt_status status =
        bt_features(m, x + (size_t)i * BT_WINDOW, features + (size_t)i * BT_FEATURES);
    if (status != BT_OK)
      return (int)status;
  }
  return BT_OK;
}

static bt_status bt_host_feature(bt_model *m, const void *data, const bt_host_target *y, int i,
                                 float *loss)
{
  const float *features = data;
  return bt_train_features(m, features + (size_t)i * BT_FEATURES, BT_TARGET(y, i), loss);
}

int bt_host_train_features(bt_model *m, const float *features, const bt_host_target *y, int n,
                           int drop_last, float *losses, int *at)
{
  return bt_host_each(m, bt_host_feature, features, y, n, drop_last, losses, at);
}

#endif
