/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The live firmware: records, predicts, calibrates itself, and survives power cuts. Include
 * "live.h", which BioTrain emits with the numbers of the package (channels, hop, flash layout,
 * sizes); it includes this. The code is in live.c, live_learn.c and live_sessions.c. Nothing is
 * global: the caller places one bt_live, and the model is inside it.
 *
 *     static bt_live live;
 *     bt_live_start(&live, &flash);                  mounts the store, loads the last good session
 *
 *     void on_frame(const bt_raw *frame)           interrupt: one sample of every channel
 *     { bt_live_push(&live, frame, label); }         label: of what is being done now; -1: unknown
 *
 *     for (;;) {                                     main loop
 *       switch (bt_live_work(&live, 100000)) {       at most about so many cycles at a time
 *       case BT_LIVE_PREDICTED: show(live.predicted, live.logits); break;
 *       case BT_LIVE_IDLE: sleep_until_interrupt(); break;
 *       default: break;
 *       }
 *     }
 *
 * A hop makes a window: it is predicted first, and then stored where one label holds for all of it.
 * The time that is left goes to the calibration (bt_live_calibrate, or drift where that is on): it
 * trains on the stored windows in slices, epoch by epoch; after each it predicts the held-back
 * windows and writes a checkpoint. Weights that do better on the held-back windows than those
 * before are kept; if no epoch's do, the weights before are restored, and it begins anew at a
 * quarter of the rate, BT_LIVE_REPEATS times at most.
 *
 * Flash, in pages from BT_LIVE_FIRST_PAGE on: the store, two slots of sessions (weights that are
 * good), two slots of work (a calibration under way: weights, optimizer, epoch). After a power cut
 * bt_live_start resumes the calibration from its last epoch, to the same bits.
 */
#ifndef BT_LIVE_RUNTIME_H
#define BT_LIVE_RUNTIME_H

#ifndef BT_LIVE_HOP
#error "include live.h (emitted by biotrain compile --live), not bt_live.h"
#endif

#include "bt_screen.h"
#include "bt_slots.h"
#include "bt_store.h"
#include "model.h"
#if BT_LIVE_FRONT
#include "front.h"
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* What a call of bt_live_work ended with. */
typedef enum bt_live_event {
  BT_LIVE_IDLE = 0,   /* nothing is left to do until the next frame */
  BT_LIVE_MORE,       /* the cycles are used up: call again */
  BT_LIVE_PREDICTED,  /* logits, predicted, window: of the newest window */
  BT_LIVE_REFUSED,    /* window: it was not predicted; status says why, channel where */
  BT_LIVE_CALIBRATED, /* a calibration ended: kept, before, best */
  BT_LIVE_DRIFTED,    /* predictions have become unsure: confidence, reference */
  BT_LIVE_FAILED      /* flash or checkpoint: status; it goes on without */
} bt_live_event;

typedef enum bt_live_mode {
  BT_LIVE_RECORD = 0, /* no session yet: factory weights predict, labelled windows are stored */
  BT_LIVE_CALIBRATE,  /* the same, and a calibration is under way */
  BT_LIVE_USE         /* weights of a good session predict; labelled windows are stored */
} bt_live_mode;

/* Counted since bt_live_start. */
typedef struct bt_live_counters {
  uint32_t frames;       /* taken from the ring */
  uint32_t lost;         /* frames that found the ring full: a new window begins after them */
  uint32_t windows;      /* hops */
  uint32_t predicted;
  uint32_t flat;         /* windows refused: a constant channel */
  uint32_t saturated;    /* windows refused: a channel at an end of the converter's range */
  uint32_t nonfinite;    /* windows refused: NaN or infinity in the logits */
  uint32_t labels;       /* frames with a label that is none: counted as unlabelled */
  uint32_t stored;       /* labelled windows */
  uint32_t unstored;     /* labelled windows that flash refused, or found no space */
  uint32_t corrupt;      /* stored windows that could not be read: left out */
  uint32_t worn;         /* slots of the store that flash no longer serves */
  uint32_t trained;      /* windows */
  uint32_t steps;        /* of the optimizer */
  uint32_t losses;       /* windows left out: loss not finite */
  uint32_t gradients;    /* groups dropped: NaN or infinity in gradients or new weights */
  uint32_t checkpoints;  /* written: sessions and work */
  uint32_t failures;     /* checkpoints that flash refused */
  uint32_t calibrations; /* begun, or resumed by bt_live_start */
  uint32_t kept;         /* of these: sessions that are better than before */
  uint32_t undone;       /* of these: the weights before were restored */
  uint32_t repeated;     /* attempts at a quarter of the rate */
  uint32_t drifts;
  uint32_t slices;       /* of training */
} bt_live_counters;

/* What a checkpoint holds beside the weights. */
typedef struct bt_live_record {
  uint32_t session; /* calibrations so far; 0: the factory's weights */
  uint32_t epoch;   /* epochs done */
  uint32_t stale;   /* epochs since the best */
  uint32_t limit;   /* windows of the store from this number on are not of the calibration */
  uint32_t windows; /* that train */
  uint32_t held;    /* held back */
  uint32_t right;   /* of these, by the best weights */
  uint32_t right_before;
  float loss;       /* mean over these, of the best weights */
  float loss_before;
  float confidence; /* mean over these, of the best weights */
  uint32_t found;   /* 1: this calibration has weights better than those before */
  uint32_t repeats; /* of this calibration, each at a quarter of the rate of the one before */
} bt_live_record;

/* What a calibration works on. */
typedef enum bt_live_task {
  BT_TASK_NONE = 0,
  BT_TASK_EVALUATE, /* predicts the held-back windows */
  BT_TASK_GOOD,     /* writes the weights into a slot of sessions */
  BT_TASK_WORK,     /* writes everything into a slot of work */
  BT_TASK_TRAIN,    /* a window in slices */
  BT_TASK_STEP,     /* an optimizer step in slices */
  BT_TASK_FINISH    /* ends the calibration */
} bt_live_task;

typedef struct bt_live {
  /* For the program. */
  float logits[BT_OUTPUTS];    /* of the newest window */
  int32_t predicted;           /* class of the newest window */
  uint32_t window;             /* its number since bt_live_start */
  int32_t label;               /* that holds for all of it, or -1 */
  uint32_t mode;               /* a bt_live_mode */
  uint32_t status;             /* a bt_status: of the newest refusal or failure */
  uint32_t channel;            /* of the newest refusal */
  /* 1: the newest calibration's weights are better than those before */
  uint32_t kept;
  float before;                /* share of its held-back windows that were right before it, */
  float best;                  /* and that are right with its best weights */
  float confidence;            /* running mean of the largest probability */
  uint32_t left;               /* cycles of the last bt_live_work that are not used up */
  bt_live_counters counters;
  bt_live_record record;
  /* Settings; bt_live_start writes those of the package, a program may change them then. */
  uint32_t epochs;             /* most of a calibration; they must not change during one */
  uint32_t patience;           /* epochs without a better one that end it; 0: all epochs run */
  uint32_t repeats;            /* most of a calibration that has found no better weights */
  uint32_t least;              /* windows in the store that a calibration wants */
  uint32_t seed;
  float rate;                  /* learning rate */
  float drift;                 /* fall of the confidence that counts as drift; 0: off */
  uint32_t automatic;          /* 1: drift begins a calibration, if enough new windows are stored */
  uint32_t guards;             /* 1: windows with a flat or saturated channel are refused */
  /* Inside. */
  uint32_t task;               /* a bt_live_task */
  uint32_t at;                 /* place in the order of the epoch, or of the held-back windows */
  uint32_t right;              /* held-back windows that are right so far, */
  uint32_t evaluated;          /* of so many that were predicted */
  float loss;                  /* sum over them */
  float sure;                  /* sum of their largest probabilities */
  uint32_t read;               /* 1: the window at this place is in RAM */
  bt_store_reading reading;    /* of it */
  int32_t truth;               /* its label */
  uint32_t due;                /* 1: a window waits for its prediction, 2: it is half done */
  uint32_t storing;            /* 1: the newest window is to be stored */
  uint32_t tell;               /* a bt_live_event that follows the prediction */
  uint32_t predictions;        /* since the weights last changed */
  uint32_t told;               /* 1: drift was told */
  uint32_t store_ok;
  int32_t good;                /* slot of the newest session */
  int32_t work;                /* slot of the newest work */
  uint32_t good_sequence;      /* sequence numbers of these checkpoints */
  uint32_t work_sequence;
  uint32_t good_session;       /* of the newest session */
  uint32_t frames;             /* since the gap */
  uint32_t next;               /* frames until the next window (without a front end) */
  uint32_t same;               /* frames with the label that holds now */
  int32_t holds;               /* that label */
  volatile uint32_t pushed;    /* frames; by bt_live_push */
  volatile uint32_t lost;      /* frames that found the ring full; by bt_live_push */
  volatile uint32_t unknown;   /* labels; by bt_live_push */
  volatile uint32_t taken;     /* frames; by bt_live_work */
  uint32_t in;                 /* where the next frame goes in the ring, */
  uint32_t out;                /* and where the next one is taken */
  uint32_t label_in;
  uint32_t label_out;
  uint32_t gap;                /* 1: frames were lost before the next one; by bt_live_push */
  uint32_t frozen[BT_STORE_SLOTS / 32]; /* slots with the windows of the calibration */
  int32_t last[BT_LIVE_CHANS]; /* per channel: the newest sample */
  uint32_t still[BT_LIVE_CHANS]; /* frames since it changed */
  uint32_t clipped[BT_LIVE_CHANS]; /* frames since it was at an end of the range */
#if BT_LIVE_ARTEFACTS > 0
  uint32_t outliers;           /* labelled windows that were not stored: artefacts */
  uint32_t artefact;           /* 1: the newest window is one */
  uint8_t powers[BT_LIVE_CHANS][BT_SCREEN_LEVELS]; /* histograms of the windows' power */
#endif
  bt_store store;
  bt_flash flash;
  bt_slots_save_state save;
  bt_segment segments[BT_STATE_SEGMENTS + 1];
  bt_raw ring[BT_LIVE_RING][BT_LIVE_CHANS];
  uint8_t labels[BT_LIVE_WAIT]; /* of the frames that wait: label + 1; a flag for a gap */
#if BT_LIVE_FRONT
  bt_front front;
#endif
#if BT_LIVE_FRONT && BT_FRONT_WHOLE
  float row[BT_FRONT_TIMES];
#endif
  bt_model model;
} bt_live;

/* Mounts the store, loads the weights of the last good session, or the factory's, and resumes a
 * calibration that a power cut has ended. BT_OK, or the status of the store: then nothing is
 * stored. The driver is copied; its context must stay. */
bt_status bt_live_start(bt_live *l, const bt_flash *flash);
/* One sample of every channel. From an interrupt, or from wherever samples come. */
void bt_live_push(bt_live *l, const bt_raw frame[BT_LIVE_CHANS], int32_t label);
/* Samples are missing before the next frame (a radio lost packages, a counter skipped): the front
 * end and the window begin anew with it. From where bt_live_push is called. */
void bt_live_gap(bt_live *l);
/* Works for about max_cycles, longer only where a slice is longer (BT_LIVE_LONGEST) or flash takes
 * its time; returns after an event. */
bt_live_event bt_live_work(bt_live *l, uint32_t max_cycles);
/* Begins a calibration with what is stored: BT_OK, BT_ERR_BUSY (one is under way),
 * BT_ERR_LIVE_FEW (too few windows). */
bt_status bt_live_calibrate(bt_live *l);
/* Ends a calibration under way; the weights before it are restored. */
bt_status bt_live_cancel(bt_live *l);
/* To the session before the newest; to the factory's weights, and no others are left in flash (the
 * stored windows are: bt_live_forget). Both end a calibration under way. */
bt_status bt_live_back(bt_live *l);
bt_status bt_live_factory(bt_live *l);
/* Forgets the stored windows. */
bt_status bt_live_forget(bt_live *l);

#ifdef __cplusplus
}
#endif

#endif
