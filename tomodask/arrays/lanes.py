"""Sixteen float32 numbers side by side: a vector as a type for numba kernels.

Where the same sums are wanted of many images, an image a lane, one instruction does sixteen of
them, no lane ever sees another, and so what an image gives does not depend, to the bit, on the
images beside it.  Loops over arrays leave it to the compiler whether it finds that out; these
functions do not.  They are LLVM's vectors, which every processor's back end cuts to its own width.

Inside of a ``numba.njit`` function: ``load``, ``store``, ``splat``, ``+ - *``, ``fma`` (a·b + c)
and ``largest``.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.extending import intrinsic, overload, register_model

__all__ = ["LANES", "fma", "largest", "load", "splat", "store"]

#: Numbers of a vector.
LANES = 16

_VECTOR = ir.VectorType(ir.FloatType(), LANES)


class Vector(types.Type):  # type: ignore[misc]
    """The type of sixteen float32 numbers."""

    def __init__(self) -> None:
        super().__init__(name="Vector16f")


vector = Vector()


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _VECTOR)


def _pointer(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    data = cgutils.create_struct_proxy(kind)(context, builder, array).data
    at = builder.gep(data, [index])
    return builder.bitcast(at, _VECTOR.as_pointer())


def _plain(kind: Any) -> bool:
    return (
        isinstance(kind, types.Array)
        and kind.dtype == types.float32
        and kind.ndim == 1
        and kind.layout == "C"
    )


@intrinsic
def load(typing_context, array, index):  # type: ignore[no-untyped-def]
    """Sixteen numbers of a flat float32 array from `index` on."""
    if not (_plain(array) and isinstance(index, types.Integer)):
        return None

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        at = context.cast(builder, arguments[1], signature.args[1], types.intp)
        where = _pointer(context, builder, signature.args[0], arguments[0], at)
        return builder.load(where, align=4)

    return vector(array, index), generate


@intrinsic
def store(typing_context, array, index, value):  # type: ignore[no-untyped-def]
    """Put sixteen numbers into a flat float32 array from `index` on."""
    if not (_plain(array) and isinstance(index, types.Integer) and isinstance(value, Vector)):
        return None

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        at = context.cast(builder, arguments[1], signature.args[1], types.intp)
        where = _pointer(context, builder, signature.args[0], arguments[0], at)
        builder.store(arguments[2], where, align=4)
        return context.get_dummy_value()

    return types.void(array, index, value), generate


@intrinsic
def splat(typing_context, number):  # type: ignore[no-untyped-def]
    """A number in all sixteen lanes."""
    if not isinstance(number, types.Number):
        return None

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        one = context.cast(builder, arguments[0], signature.args[0], types.float32)
        first = builder.insert_element(
            ir.Constant(_VECTOR, ir.Undefined), one, ir.Constant(ir.IntType(32), 0)
        )
        mask = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        return builder.shuffle_vector(first, ir.Constant(_VECTOR, ir.Undefined), mask)

    return vector(number), generate


def _binary(instruction: str) -> Any:
    @intrinsic
    def function(typing_context, a, b):  # type: ignore[no-untyped-def]
        if not (isinstance(a, Vector) and isinstance(b, Vector)):
            return None

        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            return getattr(builder, instruction)(*arguments)

        return vector(a, b), generate

    return function


_add, _sub, _mul = _binary("fadd"), _binary("fsub"), _binary("fmul")


def _operator(symbol: Any, function: Any) -> None:
    @overload(symbol, inline="always")
    def of_vectors(a, b):  # type: ignore[no-untyped-def]
        if isinstance(a, Vector) and isinstance(b, Vector):
            return lambda a, b: function(a, b)
        return None


_operator(operator.add, _add)
_operator(operator.sub, _sub)
_operator(operator.mul, _mul)


@intrinsic
def fma(typing_context, a, b, c):  # type: ignore[no-untyped-def]
    """``a * b + c``, rounded once where the processor can."""
    if not all(isinstance(one, Vector) for one in (a, b, c)):
        return None

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
        name = f"llvm.fmuladd.v{LANES}f32"
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        return builder.call(function, arguments)

    return vector(a, b, c), generate


@intrinsic
def largest(typing_context, a, b):  # type: ignore[no-untyped-def]
    """The larger of two, lane by lane; numbers only, no NaN."""
    if not (isinstance(a, Vector) and isinstance(b, Vector)):
        return None

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        more = builder.fcmp_ordered(">", *arguments)
        return builder.select(more, *arguments)

    return vector(a, b), generate
