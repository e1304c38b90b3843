/* SPDX-License-Identifier: Apache-2.0 */
/* Start of a Cortex-M with an FPU: its vectors, FPU on, .data copied, .bss cleared, main. */
#include <stdint.h>

/* From the linker script. */
extern uint32_t bt_stack_top[], bt_data_load[], bt_data_begin[], bt_data_end[];
extern uint32_t bt_bss_begin[], bt_bss_end[];

int main(void);
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

__attribute__((naked, noreturn)) void Reset_Handler(void)
{
  __asm__ volatile("ldr r0, =bt_stack_top\n"
                   "mov sp, r0\n"
                   "ldr r0, =0xE000ED08\n" /* VTOR: the table below */
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

typedef void (*bt_vector)(void);

#define BT_EIGHT \
  bt_interrupt, bt_interrupt, bt_interrupt, bt_interrupt, bt_interrupt, bt_interrupt, \
      bt_interrupt, bt_interrupt

/* The stack, the core's exceptions, and 64 interrupts. */
extern const bt_vector bt_vectors[16 + 64];
__attribute__((used, section(".vectors"))) const bt_vector bt_vectors[16 + 64] = {
    (bt_vector)(uintptr_t)bt_stack_top,
    Reset_Handler,
    NMI_Handler,
    HardFault_Handler,
    MemManage_Handler,
    BusFault_Handler,
    UsageFault_Handler,
    0,
    0,
    0,
    0,
    SVC_Handler,
    DebugMon_Handler,
    0,
    PendSV_Handler,
    SysTick_Handler,
    BT_EIGHT,
    BT_EIGHT,
    BT_EIGHT,
    BT_EIGHT,
    BT_EIGHT,
    BT_EIGHT,
    BT_EIGHT,
    BT_EIGHT};
