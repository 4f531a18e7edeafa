"""Which number format a processor multiplies fast: bfloat16 where the hardware has instructions for it (emulated, it is three times slower than float32)."""

from __future__ import annotations

from typing import Literal

Precision = Literal["auto", "float32", "bfloat16"]


def fast_cpu_dtype() -> Literal["float32", "bfloat16"]:
    """bfloat16 on an x86 processor with AMX or AVX-512 instructions for it, else float32."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            flags = next((line for line in file if line.startswith("flags")), "").split()
    except OSError:
        flags = []
    return "bfloat16" if {"amx_bf16", "avx512_bf16"} & set(flags) else "float32"


def resolve_precision(precision: Precision, device: str) -> Literal["float32", "bfloat16"]:
    """`auto` made concrete for a torch device (`cpu`, `cuda:0`)."""
    if precision != "auto":
        return precision
    if device.startswith("cpu"):
        return fast_cpu_dtype()
    import torch

    return "bfloat16" if device.startswith("cuda") and torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
