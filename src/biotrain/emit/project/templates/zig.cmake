# SPDX-License-Identifier: Apache-2.0
# The compiler in the Python package ziglang (pip install ziglang) for @CORE_NAME@.
set(CMAKE_SYSTEM_NAME Generic)
set(CMAKE_SYSTEM_PROCESSOR @FAMILY@)
set(CMAKE_C_COMPILER python3 -m ziglang cc)
set(CMAKE_C_FLAGS_INIT "@ZIG_FLAGS@ @ZIG_CORE@")
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY) # nothing links without the linker script
