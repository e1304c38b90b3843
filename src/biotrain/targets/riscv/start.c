/* SPDX-License-Identifier: Apache-2.0 */
/* Start of a RISC-V core with an FPU: stack, traps, FPU on, .data copied, .bss cleared, main. */
#include <stdint.h>

/* From the linker script. */
extern uint32_t bt_data_load[], bt_data_begin[], bt_data_end[], bt_bss_begin[], bt_bss_end[];

int main(void);
void Reset_Handler(void);
void bt_fault(void);

/* A trap, or an interrupt that nobody handles, stops here, and leaves the stack alone. */
__attribute__((naked, aligned(256))) void bt_fault(void)
{
  __asm__ volatile("j .\n");
}

/* Traps and interrupts: weak, so that a function of this name, aligned to 256 bytes, replaces it. */
void bt_trap(void) __attribute__((weak, alias("bt_fault")));

__attribute__((naked, noreturn, section(".vectors"))) void Reset_Handler(void)
{
  __asm__ volatile(".option push\n"
                   ".option norelax\n"
                   "la sp, bt_stack_top\n"
                   ".option pop\n"
                   "la t0, bt_trap\n"
                   "csrw mtvec, t0\n"
                   "li t0, 0x2000\n" /* mstatus.FS: initial */
                   "csrs mstatus, t0\n"
                   "j bt_start\n");
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
