// SPDX-License-Identifier: Apache-2.0
// One core of the cluster and one floating-point unit, verilated once each and instantiated as
// often as the cluster needs them: private FPUs and shared ones are the same two models.
//
// Set by verilator's -G: pipeline registers in the adder and multiplier, and in the comparisons and
// conversions; ZFINX, floats in the integer registers.
module biotrain_cluster_core #(
    parameter ADDMUL_LATENCY = 1,
    parameter OTHERS_LATENCY = 1,
    parameter ZFINX = 0
) (
    input  logic        clk_i,
    input  logic        rst_ni,
    input  logic [31:0] boot_addr_i,
    input  logic [31:0] hart_id_i,

    output logic        instr_req_o,
    input  logic        instr_gnt_i,
    output logic [31:0] instr_addr_o,
    input  logic        instr_rvalid_i,
    input  logic [31:0] instr_rdata_i,

    output logic        data_req_o,
    input  logic        data_gnt_i,
    output logic        data_we_o,
    output logic [ 3:0] data_be_o,
    output logic [31:0] data_addr_o,
    output logic [31:0] data_wdata_o,
    input  logic        data_rvalid_i,
    input  logic [31:0] data_rdata_i,

    output logic        fpu_req_o,
    input  logic        fpu_gnt_i,
    output logic [31:0] fpu_a_o,
    output logic [31:0] fpu_b_o,
    output logic [31:0] fpu_c_o,
    output logic [ 5:0] fpu_op_o,
    output logic [14:0] fpu_flags_o,
    input  logic        fpu_rvalid_i,
    input  logic [31:0] fpu_result_i,
    input  logic [ 4:0] fpu_status_i,

    output logic        issued_o,       // in the cycle before, an instruction left the decoder
    output logic [31:0] decoder_pc_o,   // the instruction in the decoder
    output logic        empty_o,        // no instruction is in the decoder
    output logic [31:0] data_pc_o,      // the load or store on the data port
    output logic        trap_o,         // the instruction in the decoder traps
    output logic [ 4:0] trap_cause_o,
    output logic        sleep_o         // wfi
);

  logic [2:0][31:0] operands;
  assign {fpu_c_o, fpu_b_o, fpu_a_o} = operands;

  cv32e40p_core #(
      .FPU           (1),
      .FPU_ADDMUL_LAT(ADDMUL_LATENCY),
      .FPU_OTHERS_LAT(OTHERS_LATENCY),
      .ZFINX         (ZFINX),
      .COREV_PULP    (0),
      .COREV_CLUSTER (0)
  ) core_i (
      .clk_i,
      .rst_ni,
      .pulp_clock_en_i    (1'b1),
      .scan_cg_en_i       (1'b0),
      .boot_addr_i,
      .mtvec_addr_i       (32'h0),
      .dm_halt_addr_i     (32'h0),
      .hart_id_i,
      .dm_exception_addr_i(32'h0),
      .instr_req_o,
      .instr_gnt_i,
      .instr_rvalid_i,
      .instr_addr_o,
      .instr_rdata_i,
      .data_req_o,
      .data_gnt_i,
      .data_rvalid_i,
      .data_we_o,
      .data_be_o,
      .data_addr_o,
      .data_wdata_o,
      .data_rdata_i,
      .apu_busy_o         (),
      .apu_req_o          (fpu_req_o),
      .apu_gnt_i          (fpu_gnt_i),
      .apu_operands_o     (operands),
      .apu_op_o           (fpu_op_o),
      .apu_flags_o        (fpu_flags_o),
      .apu_rvalid_i       (fpu_rvalid_i),
      .apu_result_i       (fpu_result_i),
      .apu_flags_i        (fpu_status_i),
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

  // minstret counts what the decoder issues: the core never takes an issued instruction back. It is
  // a register, since the grants of a cycle come when the cycle's outputs have been evaluated.
  assign issued_o     = core_i.mhpmevent_minstret;
  assign decoder_pc_o = core_i.pc_id;
  assign empty_o      = !core_i.instr_valid_id;
  assign data_pc_o    = core_i.pc_ex;
  assign trap_o       = core_i.csr_save_cause;
  assign trap_cause_o = core_i.csr_cause[4:0];

endmodule

// CVFPU as the core's own top has it. Results come in the order of the requests, as long as those
// in flight take equally long: cluster.hpp grants accordingly.
module biotrain_cluster_fpu #(
    parameter ADDMUL_LATENCY = 1,
    parameter OTHERS_LATENCY = 1
) (
    input  logic        clk_i,
    input  logic        rst_ni,
    input  logic        req_i,
    output logic        gnt_o,
    input  logic [31:0] a_i,
    input  logic [31:0] b_i,
    input  logic [31:0] c_i,
    input  logic [ 5:0] op_i,
    input  logic [14:0] flags_i,
    output logic        rvalid_o,
    output logic [31:0] result_o,
    output logic [ 4:0] status_o
);
  cv32e40p_fp_wrapper #(
      .FPU_ADDMUL_LAT(ADDMUL_LATENCY),
      .FPU_OTHERS_LAT(OTHERS_LATENCY)
  ) fpu_i (
      .clk_i,
      .rst_ni,
      .apu_req_i     (req_i),
      .apu_gnt_o     (gnt_o),
      .apu_operands_i({c_i, b_i, a_i}),
      .apu_op_i      (op_i),
      .apu_flags_i   (flags_i),
      .apu_rvalid_o  (rvalid_o),
      .apu_rdata_o   (result_o),
      .apu_rflags_o  (status_o)
  );
endmodule

// The core leaves its clock gate to whoever builds it. Cores that wait are not evaluated at all, so
// that this clock need not stop.
module cv32e40p_clock_gate (
    input  logic clk_i,
    input  logic en_i,
    input  logic scan_cg_en_i,
    output logic clk_o
);
  assign clk_o = clk_i;
endmodule
