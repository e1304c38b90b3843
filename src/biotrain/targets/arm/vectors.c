/* SPDX-License-Identifier: Apache-2.0 */
/* The interrupt table of a Cortex-M: the stack, the core's exceptions, and 64 interrupts. */
#include <stdint.h>

extern uint32_t bt_stack_top[]; /* from the linker script */

void Reset_Handler(void);
void bt_fault(void);

/* A fault, or an interrupt that nobody handles, stops here. It leaves the stack alone, which may
 * be what failed: the fault's frame lies where sp points. */
__attribute__((naked)) void bt_fault(void)
{
  __asm__ volatile("b .\n");
}

/* Handlers of the core's exceptions and of the board's interrupts: weak, so that a function of the
 * same name takes the place of each. Interrupts share one, which reads its number from IPSR. */
#define BT_HANDLER __attribute__((weak, alias("bt_fault")))
void NMI_Handler(void) BT_HANDLER;
void HardFault_Handler(void) BT_HANDLER;
void MemManage_Handler(void) BT_HANDLER;
void BusFault_Handler(void) BT_HANDLER;
void UsageFault_Handler(void) BT_HANDLER;
void SVC_Handler(void) BT_HANDLER;
void DebugMon_Handler(void) BT_HANDLER;
void PendSV_Handler(void) BT_HANDLER;
void SysTick_Handler(void) BT_HANDLER;
void bt_interrupt(void) BT_HANDLER;

typedef void (*bt_vector)(void);

#define BT_EIGHT \
  bt_interrupt, bt_interrupt, bt_interrupt, bt_interrupt, bt_interrupt, bt_interrupt, \
      bt_interrupt, bt_interrupt

extern const bt_vector bt_vectors[16 + 64];
__attribute__((used, section(".vectors"))) const bt_vector bt_vectors[16 + 64] = {
    (bt_vector)(uintptr_t)bt_stack_top, Reset_Handler, NMI_Handler, HardFault_Handler,
    MemManage_Handler, BusFault_Handler, UsageFault_Handler, 0, 0, 0, 0, SVC_Handler,
    DebugMon_Handler, 0, PendSV_Handler, SysTick_Handler,
    BT_EIGHT, BT_EIGHT, BT_EIGHT, BT_EIGHT, BT_EIGHT, BT_EIGHT, BT_EIGHT, BT_EIGHT};
