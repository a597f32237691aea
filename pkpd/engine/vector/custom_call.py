"""Compiles a module of vector code with LLVM and makes it callable from inside JAX programs on the CPU.

The function is an XLA custom call of the typed interface (``xla/ffi/api/c_api.h``, which JAX ships): it gets a call
frame, asks it for its buffers, and runs on the thread of the program, without Python.
"""

from __future__ import annotations

import ctypes
import hashlib
import threading
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import llvmlite.binding as llvm
from llvmlite import ir

# Divide, do not estimate: as fast where the divider runs beside the multipliers, and exact. And let no register that is
# put on the stack lie across two cache lines: the caller's stack is aligned to 16 bytes only.
ATTRIBUTES = '"reciprocal-estimates"="!vec-divf" "stackrealign"'
BYTE, INT32, INT64, POINTER = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.PointerType()
# Byte offsets in the structures of c_api.h, version 0.3; newer minor versions only append.
VERSION = (0, 3)
FRAME_EXTENSION, FRAME_STAGE, FRAME_ARGUMENTS, FRAME_RESULTS, BUFFER_DATA = 8, 32, 72, 112, 24
EXTENSION_TYPE, EXTENSION_METADATA, IS_METADATA, STAGE_EXECUTE = 8, 24, 1, 3
METADATA_MAJOR, METADATA_MINOR, METADATA_TRAITS, METADATA_STATE = 24, 28, 32, 40


_lock = threading.Lock()
_kept: dict[str, Any] = {}  # compiled code must outlive every program that calls it


def _at(b: ir.IRBuilder, base: ir.Value, offset: int, kind: ir.Type = POINTER) -> ir.Value:
    return b.load(b.gep(base, [INT64(offset)], source_etype=BYTE), typ=kind)


def _put(b: ir.IRBuilder, base: ir.Value, offset: int, value: ir.Value) -> None:
    b.store(value, b.gep(base, [INT64(offset)], source_etype=BYTE))


def handler(
    module: ir.Module, name: str, n_arguments: int, n_results: int, body: Callable[[ir.IRBuilder, list, list], None]
) -> None:
    """Adds the custom call ``name``, whose ``body`` gets the builder and the pointers to arguments and results."""
    function = ir.Function(module, ir.FunctionType(POINTER, [POINTER]), name)
    b = ir.IRBuilder(function.append_basic_block("entry"))
    frame = function.args[0]
    nothing = ir.Constant(POINTER, None)
    extension = _at(b, frame, FRAME_EXTENSION)
    with b.if_then(b.icmp_unsigned("!=", b.ptrtoint(extension, INT64), INT64(0))):
        # XLA asks once, when the handler is registered, which version it was written for
        asked = b.icmp_signed("==", _at(b, extension, EXTENSION_TYPE, INT32), INT32(IS_METADATA))
        with b.if_then(asked):
            metadata = _at(b, extension, EXTENSION_METADATA)
            _put(b, metadata, METADATA_MAJOR, INT32(VERSION[0]))
            _put(b, metadata, METADATA_MINOR, INT32(VERSION[1]))
            _put(b, metadata, METADATA_TRAITS, INT32(0))
            _put(b, metadata, METADATA_STATE, INT64(0))
            b.ret(nothing)
    with b.if_then(b.icmp_signed("!=", _at(b, frame, FRAME_STAGE, INT32), INT32(STAGE_EXECUTE))):
        b.ret(nothing)
    arguments, results = _at(b, frame, FRAME_ARGUMENTS), _at(b, frame, FRAME_RESULTS)
    body(
        b,
        [_at(b, _at(b, arguments, 8 * i), BUFFER_DATA) for i in range(n_arguments)],
        [_at(b, _at(b, results, 8 * i), BUFFER_DATA) for i in range(n_results)],
    )
    b.ret(nothing)


@cache
def machine() -> llvm.TargetMachine:
    """LLVM's view of this processor, at full optimisation."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    features = llvm.get_host_cpu_features().flatten()
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(cpu=llvm.get_host_cpu_name(), features=features, opt=3, jit=True)


@cache
def register_bytes() -> int:
    """Bytes in a vector register of this processor: 64 with AVX-512, 32 with AVX2, else 16 (SSE2, NEON)."""
    has = llvm.get_host_cpu_features()
    return 64 if has.get("avx512f") else 32 if has.get("avx2") else 16


def compiled(text: str) -> llvm.ModuleRef:
    """The optimised module of LLVM assembly ``text``."""
    module = llvm.parse_assembly(text)
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    options.slp_vectorization = options.loop_vectorization = options.loop_unrolling = False
    passes = llvm.create_pass_builder(machine(), options)
    passes.getModulePassManager().run(module, passes)
    return module


def register(module: ir.Module, name: str) -> str:
    """Compiles the custom call ``name`` of ``module`` unless the same code is known; returns its target name for JAX.

    The name holds a hash of the code, so that a kept program of JAX never calls other code than it was made with.
    """
    text = str(module).replace('(ptr %".1")\n', f'(ptr %".1") {ATTRIBUTES}\n')
    target = f"pkpd_{name}_{hashlib.sha256((text + llvm.get_host_cpu_name()).encode()).hexdigest()[:16]}"
    with _lock:
        if target not in _kept:
            engine = llvm.create_mcjit_compiler(compiled(text), machine())
            engine.finalize_object()
            capsule = ctypes.pythonapi.PyCapsule_New
            capsule.restype, capsule.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
            jax.ffi.register_ffi_target(target, capsule(engine.get_function_address(name), None, None), platform="cpu")
            _kept[target] = engine
    return target


@cache
def trouble() -> str:
    """Why custom calls do not work here, found by making one; empty where they do."""

    def body(b: ir.IRBuilder, arguments: list, results: list) -> None:
        b.store(b.fmul(b.load(arguments[0], typ=ir.FloatType()), ir.FloatType()(3.0)), results[0])

    try:
        module = ir.Module()
        handler(module, "probe", 1, 1, body)
        target = register(module, "probe")
        one = jax.ShapeDtypeStruct((), jnp.float32)
        with jax.ensure_compile_time_eval():  # it may be asked while a program is traced
            result = float(jax.jit(lambda x: call(target, [one], x)[0])(jnp.float32(2)))
    except Exception as error:  # whatever the reason, the XLA engine does the same work
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return "" if result == 6 else f"a probe gave {result:g} instead of 6"


def call(target: str, results: Sequence[jax.ShapeDtypeStruct], *arguments: jax.Array) -> list[jax.Array]:
    """Calls a registered target inside a JAX program."""
    return list(jax.ffi.ffi_call(target, list(results))(*arguments))
