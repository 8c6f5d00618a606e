"""ctypes mirror of csrc/include/abi.h: the structs and functions of the native libraries."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_float, c_int32, c_int64, c_uint32, c_void_p

ABI_VERSION = 2
CHECKPOINT_STEPS = 16  # scan states are kept every so many steps
MAX_CONV_WIDTH = 8
MAX_CUDA_STATES = 32

F32, BF16, F16 = 0, 1, 2
STATUS = {
    1: "the Python package and its native library come from different builds; reinstall vim-train",
    2: "sizes that the native kernels do not support",
    3: "out of memory",
}
CUDA_ERROR = 4


class RuntimeArg(Structure):
    _fields_ = (
        ("parallel_for", c_void_p),
        ("stream", c_void_p),
        ("device", c_int32),
        ("workspace", c_void_p),
    )


class TensorArg(Structure):
    _fields_ = (("data", c_void_p), ("stride_batch", c_int64), ("stride_len", c_int64))


class DirectionArg(Structure):
    _fields_ = (
        ("u", TensorArg),
        ("delta", TensorArg),
        ("B", TensorArg),
        ("C", TensorArg),
        ("A", c_void_p),
        ("D", c_void_p),
        ("delta_bias", c_void_p),
        ("checkpoints", c_void_p),
        ("last_state", c_void_p),
        ("reverse", c_int32),
    )


class ScanArgs(Structure):
    _fields_ = (
        ("size", c_uint32),
        ("dtype", c_int32),
        ("batch", c_int64),
        ("length", c_int64),
        ("channels", c_int64),
        ("states", c_int64),
        ("directions", c_int32),
        ("delta_softplus", c_int32),
        ("scale", c_float),
        ("dir", DirectionArg * 2),
        ("z", TensorArg),
        ("out", TensorArg),
        ("runtime", RuntimeArg),
    )


class DirectionGradsArg(Structure):
    _fields_ = (
        ("du", TensorArg),
        ("ddelta", TensorArg),
        ("dB", TensorArg),
        ("dC", TensorArg),
        ("dA", c_void_p),
        ("dD", c_void_p),
        ("ddelta_bias", c_void_p),
    )


class ScanBackwardArgs(Structure):
    _fields_ = (
        ("size", c_uint32),
        ("forward", ScanArgs),
        ("dout", TensorArg),
        ("dz", TensorArg),
        ("grads", DirectionGradsArg * 2),
    )


class ConvArgs(Structure):
    _fields_ = (
        ("size", c_uint32),
        ("dtype", c_int32),
        ("batch", c_int64),
        ("length", c_int64),
        ("channels", c_int64),
        ("width", c_int64),
        ("x", TensorArg),
        ("weight", c_void_p),
        ("bias", c_void_p),
        ("weight_b", c_void_p),
        ("bias_b", c_void_p),
        ("u", TensorArg),
        ("u_b", TensorArg),
        ("runtime", RuntimeArg),
    )


class ConvBackwardArgs(Structure):
    _fields_ = (
        ("size", c_uint32),
        ("forward", ConvArgs),
        ("du", TensorArg),
        ("du_b", TensorArg),
        ("dx", TensorArg),
        ("dweight", c_void_p),
        ("dbias", c_void_p),
        ("dweight_b", c_void_p),
        ("dbias_b", c_void_p),
    )


class NormArgs(Structure):
    _fields_ = (
        ("size", c_uint32),
        ("dtype", c_int32),
        ("rows", c_int64),
        ("dim", c_int64),
        ("eps", c_float),
        ("hidden", c_void_p),
        ("residual", c_void_p),
        ("weight", c_void_p),
        ("normed", c_void_p),
        ("residual_out", c_void_p),
        ("inv_rms", c_void_p),
        ("runtime", RuntimeArg),
    )


class NormBackwardArgs(Structure):
    _fields_ = (
        ("size", c_uint32),
        ("forward", NormArgs),
        ("dnormed", c_void_p),
        ("dresidual_out", c_void_p),
        ("dresidual", c_void_p),
        ("dweight", c_void_p),
    )


FUNCTIONS: dict[str, type[Structure]] = {
    "vt_scan_forward": ScanArgs,
    "vt_scan_backward": ScanBackwardArgs,
    "vt_conv_forward": ConvArgs,
    "vt_conv_backward": ConvBackwardArgs,
    "vt_norm_forward": NormArgs,
    "vt_norm_backward": NormBackwardArgs,
}
WITH_WORKSPACE = ("vt_scan_forward", "vt_scan_backward", "vt_conv_backward", "vt_norm_backward")


def declare(library: ctypes.CDLL) -> None:
    """Give the library's functions their C types; AttributeError where one is missing."""
    library.vt_abi_version.restype = c_int32
    library.vt_cuda_version.restype = c_int32
    library.vt_target.restype = ctypes.c_char_p
    library.vt_last_error.restype = ctypes.c_char_p
    for name, struct in FUNCTIONS.items():
        function = getattr(library, name)
        function.restype = c_int32
        function.argtypes = [POINTER(struct)]
    for name in WITH_WORKSPACE:
        function = getattr(library, f"{name}_workspace")
        function.restype = c_int64
        function.argtypes = [POINTER(FUNCTIONS[name])]
