"""Classifier and detector as one ONNX file, for runtimes without torch."""

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gmm_torch.detector.detector import FailureDetector
from gmm_torch.files import atomic_path

MAX_BATCH = 4096
OUTPUTS = ("logits", "prediction", "score", "p_value", "accept")


def save_onnx(detector: FailureDetector, example: Tensor, path: str | os.PathLike[str]) -> None:
    """Write a fitted and calibrated detector, its classifier inside, to an ONNX file.

    The file's input is `x`, of any batch size from 1 to `MAX_BATCH`; its outputs are those of `Verdict`, by name. Needs
    the packages of the extra `export`.

    Args:
        detector: see `FailureDetector`.
        example: (N, ...) inputs, N >= 2, of the shape and dtype that the file will be given; their values are not kept.
        path: of the file, written whole or not at all.

    Raises:
        ImportError: without onnx and onnxscript.
        NotFittedError: before `fit` and `calibrate`.
        ValueError: fewer than two example inputs.
        torch.onnx.OnnxExporterError: the classifier has an operation that ONNX lacks.
    """
    if len(example) < 2:
        raise ValueError(
            f"example: expected at least 2 inputs, so that the size of a batch stays open; got {len(example)}"
        )
    detector(example)  # an error in the detector or the inputs is raised before the export
    mode = detector.training
    try:
        with torch.no_grad():  # the file has no gradient: what serves one alone stays out of it
            program = torch.onnx.export(
                detector.eval(),
                (example,),
                dynamo=True,
                dynamic_shapes={"x": {0: torch.export.Dim("batch", min=1, max=MAX_BATCH)}},
                input_names=["x"],
                output_names=OUTPUTS,
                custom_translation_table=TRANSLATIONS,
                verbose=False,
            )
    finally:
        detector.train(mode)
    assert program is not None  # it is with dynamo=True
    with atomic_path(path) as temporary:
        program.save(temporary)


def _operations() -> Any:
    """Those of ONNX; annotated for other values than the exporter's."""
    from onnxscript import opset18

    return opset18


def _searchsorted(
    sorted_sequence: Any,
    values: Any,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Any = None,
) -> Any:
    """`torch.searchsorted` by counting, since ONNX has no search: all values against all of the sequence."""
    op = _operations()
    if sorter is not None:
        raise NotImplementedError("searchsorted with a sorter has no translation to ONNX")
    sequence = op.Unsqueeze(sorted_sequence, [-2]) if len(sorted_sequence.shape) > 1 else sorted_sequence
    wanted = op.Unsqueeze(values, [-1])
    before = op.LessOrEqual(sequence, wanted) if right or side == "right" else op.Less(sequence, wanted)
    count = op.ReduceSum(op.Cast(before, to=7), [-1], keepdims=0)  # 7 is int64
    return op.Cast(count, to=6) if out_int32 else count  # 6 is int32


def _solve_triangular(
    matrix: Any, right_side: Any, *, upper: bool, left: bool = True, unitriangular: bool = False
) -> Any:
    """`torch.linalg.solve_triangular` by the inverse, since ONNX has no solver; a runtime folds that of a constant.

    The inverse grows block by block: with X the inverse of the diagonal blocks of size s, and O the blocks off the
    diagonal within those of size 2 s, X - X O X is the inverse of the diagonal blocks of size 2 s.
    """
    import numpy as np
    from onnxscript import ir

    op = _operations()
    if not left or unitriangular:
        raise NotImplementedError("solve_triangular has a translation to ONNX for left=True, unitriangular=False only")
    size = matrix.shape[-1]
    row, column = np.indices((size, size))
    zero = op.CastLike(op.Constant(value_float=0.0), matrix)

    def only(where: Any, value: Any) -> Any:
        return op.Where(op.Constant(value=ir.tensor(where)), value, zero)

    inverse = only(row == column, op.Reciprocal(matrix))
    block = 1
    while block < size:
        beside = (row // (2 * block) == column // (2 * block)) & (row // block != column // block)
        beside &= (column > row) == upper
        inverse = op.Sub(inverse, op.MatMul(op.MatMul(inverse, only(beside, matrix)), inverse))
        block *= 2
    return op.MatMul(inverse, right_side)


def _logsumexp(x: Any, dim: Any, keepdim: bool = False) -> Any:
    """aten::logsumexp; ONNX's own loses rows that have both minus infinity and large negative numbers."""
    op = _operations()
    axes = op.Constant(value_ints=[dim] if isinstance(dim, int) else list(dim))
    largest = op.ReduceMax(x, axes, keepdims=1)
    lowest = op.CastLike(op.Constant(value_float=torch.finfo(torch.float32).min), x)
    largest = op.Max(largest, lowest)  # a row of minus infinity less itself would not be a number
    found = op.Add(op.Log(op.ReduceSum(op.Exp(op.Sub(x, largest)), axes, keepdims=1)), largest)
    return found if keepdim else op.Squeeze(found, axes)


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.aten.searchsorted.Tensor: _searchsorted,
    torch.ops.aten.logsumexp.default: _logsumexp,
    torch.ops.aten.linalg_solve_triangular.default: _solve_triangular,
}
