# SPDX-License-Identifier: Apache-2.0
# @GCC@ for @CORE_NAME@.
set(CMAKE_SYSTEM_NAME Generic)
set(CMAKE_SYSTEM_PROCESSOR @FAMILY@)
set(CMAKE_C_COMPILER @GCC@)
set(CMAKE_C_FLAGS_INIT "@GCC_CORE@")
set(CMAKE_EXE_LINKER_FLAGS_INIT "-nostartfiles")
set(CMAKE_C_STANDARD_LIBRARIES "-lgcc")
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY) # nothing links without the linker script
