// SPDX-License-Identifier: Apache-2.0
// CV32E40P with its FPU, brought out to the signals that the bench in bench.cpp needs.
//
// Both ports grant at once, as a tightly coupled memory does, so the grants are constants here.
// Set by verilator's -G: pipeline registers in the adder and multiplier, and in the comparisons and
// conversions; ZFINX, floats in the integer registers.
module biotrain_core #(
    parameter ADDMUL_LATENCY = 1,
    parameter OTHERS_LATENCY = 1,
    parameter ZFINX = 0
) (
    input  logic        clk_i,
    input  logic        rst_ni,
    input  logic [31:0] boot_addr_i,

    output logic        instr_req_o,
    output logic [31:0] instr_addr_o,
    input  logic        instr_rvalid_i,
    input  logic [31:0] instr_rdata_i,

    output logic        data_req_o,
    output logic        data_we_o,
    output logic [ 3:0] data_be_o,
    output logic [31:0] data_addr_o,
    output logic [31:0] data_wdata_o,
    input  logic        data_rvalid_i,
    input  logic [31:0] data_rdata_i,

    output logic        issue_o,      // an instruction leaves the decoder, for good
    output logic [31:0] issue_pc_o,   // the instruction in the decoder
    output logic        issue_short_o,  // it has 16 bits
    output logic [31:0] data_pc_o,    // the load or store on the data port
    output logic        trap_o,       // the instruction in the decoder traps
    output logic [ 4:0] trap_cause_o,
    output logic        sleep_o       // wfi
);

  cv32e40p_top #(
      .FPU           (1),
      .FPU_ADDMUL_LAT(ADDMUL_LATENCY),
      .FPU_OTHERS_LAT(OTHERS_LATENCY),
      .ZFINX         (ZFINX),
      .COREV_PULP    (0),
      .COREV_CLUSTER (0)
  ) top_i (
      .clk_i,
      .rst_ni,
      .pulp_clock_en_i    (1'b1),
      .scan_cg_en_i       (1'b0),
      .boot_addr_i,
      .mtvec_addr_i       (32'h0),
      .dm_halt_addr_i     (32'h0),
      .hart_id_i          (32'h0),
      .dm_exception_addr_i(32'h0),
      .instr_req_o,
      .instr_gnt_i        (1'b1),
      .instr_rvalid_i,
      .instr_addr_o,
      .instr_rdata_i,
      .data_req_o,
      .data_gnt_i         (1'b1),
      .data_rvalid_i,
      .data_we_o,
      .data_be_o,
      .data_addr_o,
      .data_wdata_o,
      .data_rdata_i,
      .irq_i              (32'h0),
      .irq_ack_o          (),
      .irq_id_o           (),
      .debug_req_i        (1'b0),
      .debug_havereset_o  (),
      .debug_running_o    (),
      .debug_halted_o     (),
      .fetch_enable_i     (1'b1),
      .core_sleep_o       (sleep_o)
  );

  // minstret counts what the decoder issues: the core never takes an issued instruction back.
  assign issue_o      = top_i.core_i.id_stage_i.minstret;
  assign issue_pc_o   = top_i.core_i.pc_id;
  assign issue_short_o = top_i.core_i.is_compressed_id;
  assign data_pc_o    = top_i.core_i.pc_ex;
  assign trap_o       = top_i.core_i.csr_save_cause;
  assign trap_cause_o = top_i.core_i.csr_cause[4:0];

endmodule

// The core leaves its clock gate to whoever builds it. A clock that never stops changes no cycle,
// since the core sleeps only at wfi, where the bench ends the run; and it is faster to simulate.
module cv32e40p_clock_gate (
    input  logic clk_i,
    input  logic en_i,
    input  logic scan_cg_en_i,
    output logic clk_o
);
  assign clk_o = clk_i;
endmodule
