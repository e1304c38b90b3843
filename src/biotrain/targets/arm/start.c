/* SPDX-License-Identifier: Apache-2.0 */
/* Start of a Cortex-M with an FPU: vectors.c, FPU on, .data copied, .bss cleared, main. */
#include <stdint.h>

/* From the linker script. */
extern uint32_t bt_stack_top[], bt_data_load[], bt_data_begin[], bt_data_end[];
extern uint32_t bt_bss_begin[], bt_bss_end[];

int main(void);
void Reset_Handler(void);
void bt_fault(void);

__attribute__((naked, noreturn)) void Reset_Handler(void)
{
  __asm__ volatile("ldr r0, =bt_stack_top\n"
                   "mov sp, r0\n"
                   "ldr r0, =0xE000ED08\n" /* VTOR: the table of vectors.c */
                   "ldr r1, =bt_vectors\n"
                   "str r1, [r0]\n"
                   "ldr r0, =0xE000ED88\n" /* CPACR: coprocessors 10 and 11 */
                   "ldr r1, [r0]\n"
                   "orr r1, r1, #0xF00000\n"
                   "str r1, [r0]\n"
                   "dsb\n"
                   "isb\n"
                   "b bt_start\n");
}

__attribute__((noreturn, used)) static void bt_start(void) __asm__("bt_start");

static void bt_start(void)
{
  const uint32_t *from = bt_data_load;
  for (uint32_t *to = bt_data_begin; to < bt_data_end; to++, from++)
    *(volatile uint32_t *)to = *from;
  for (uint32_t *to = bt_bss_begin; to < bt_bss_end; to++)
    *(volatile uint32_t *)to = 0; /* volatile: no call of memset or memcpy */
  main();
  bt_fault();
  __builtin_unreachable();
}
