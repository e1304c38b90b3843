/* SPDX-License-Identifier: Apache-2.0 */
/* Tools on a computer read and write structs of a running device at offsets that BioTrain computes.
 * A compiler that lays a struct out otherwise stops here: an array of -1 elements. Each number is
 * given twice, for pointers of 4 and of 8 bytes. */
#ifndef BT_LAYOUT_H
#define BT_LAYOUT_H

#include <stddef.h>

/* No conditional operator: analysers ask why its two numbers are the same, which they often are. */
#define BT_WITH_POINTERS(of_4, of_8) \
  ((sizeof(void *) == 4) * (of_4) + (sizeof(void *) != 4) * (of_8))
#define BT_HAS_SIZE(type, of_4, of_8) \
  typedef char type##_has_its_size[sizeof(type) == BT_WITH_POINTERS(of_4, of_8) ? 1 : -1]
#define BT_HAS_MEMBER(type, member, of_4, of_8) \
  typedef char \
      type##_has_##member##_there[offsetof(type, member) == BT_WITH_POINTERS(of_4, of_8) ? 1 : -1]

#endif
