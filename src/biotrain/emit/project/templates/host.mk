# SPDX-License-Identifier: Apache-2.0
# The example for this machine: make, then ./main; make CC=clang; make clean.
WARNINGS := -Wall -Wextra -Wpedantic -Wconversion -Wdouble-promotion -Wshadow
# The second line keeps the bits: no multiply and add is fused but where the C says so.
CFLAGS := @OPTIMIZE@ -g -std=c99 -march=native $(WARNINGS) -I. -I.. \
  -fno-math-errno -ffp-contract=off@PORT_FLAGS@

main: main.c board.c board.h ../model.c ../model_weights.c@LIVE_SOURCES@@THREADS_SOURCES@ $(wildcard ../*.h)
	$(CC) $(CFLAGS) $(EXTRA) -o $@ $(filter %.c,$^)

.PHONY: clean
clean:
	rm -f main
