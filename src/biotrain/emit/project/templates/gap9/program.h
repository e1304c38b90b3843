/* SPDX-License-Identifier: Apache-2.0 */
/* What runs on the cluster's controller: program.c, with the board's part of board.c. */
#ifndef PROGRAM_H
#define PROGRAM_H

/* A calibration with stored windows, then predictions; 0 at the end. */
int program(void);

#endif
