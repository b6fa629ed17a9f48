"""Images with their p-values: the least and the most typical of each source."""

import base64
import io
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainers.records.record import TEST, Records
from trainers.report.evaluation import Evaluation
from trainers.report.tables.text import source_label

N_TEST = 12
N_FAILURE = 6
LARGEST_SIDE = 96  # pixels; larger images are scaled down, so that the page stays small


class Tile(NamedTuple):
    """One image of a gallery."""

    source: str  # data URI
    prediction: str
    truth: str
    p_value: float
    right: bool


class Gallery(NamedTuple):
    """A row of images."""

    title: str
    tiles: list[Tile]


def title_of(source: str) -> str:
    """The images of a source in plain words."""
    return "clean test images" if source == TEST else source_label(source)


def gallery_rows(records: Records) -> dict[str, dict[str, list[int]]]:
    """The rows that the report shows as images: source -> {"lowest", "highest"} -> rows by p-value.

    Attacks are represented by the images that changed the prediction. No row is in both lists.
    """
    chosen = {}
    for source in dict.fromkeys(records.source.tolist()):
        rows = records.clean() if source == TEST else records.failures(source)
        ranked = np.flatnonzero(rows)
        ranked = ranked[np.lexsort((records.score[ranked], records.p_value[ranked]))]
        count = min(N_TEST if source == TEST else N_FAILURE, len(ranked) // 2 + len(ranked) % 2)
        lowest, highest = ranked[:count], ranked[count:][-count:][::-1]
        chosen[source] = {"lowest": lowest.tolist(), "highest": highest.tolist()}
    return chosen


def galleries(evaluation: Evaluation) -> list[Gallery]:
    """The galleries of the page, in the order of the records; none where the evaluation has no images."""
    if not evaluation.images:
        return []
    return [
        Gallery(f"{title_of(source)}: {end} p-values", [tile(evaluation, row) for row in rows])
        for source, ends in gallery_rows(evaluation.records).items()
        for end, rows in ends.items()
        if rows
    ]


def tile(evaluation: Evaluation, row: int) -> Tile:
    """The image of a row, with its prediction, truth and p-value; ValueError where the evaluation lacks it."""
    if row not in evaluation.images:
        raise ValueError(
            f"the image of row {row} is missing: the report shows the rows of shown_rows(records, components). "
            "Pass all of them, or no images at all."
        )
    records = evaluation.records
    label, prediction = int(records.label[row]), int(records.prediction[row])
    return Tile(
        data_uri(evaluation.images[row]),
        evaluation.name(prediction),
        evaluation.name(label),
        float(records.p_value[row]),
        label == prediction,
    )


def data_uri(image: NDArray[np.uint8]) -> str:
    """An (H, W, 1 or 3) uint8 image as a data URI: PNG, or JPEG once it had to be scaled down."""
    picture = Image.fromarray(image.squeeze(-1) if image.ndim == 3 and image.shape[-1] == 1 else image)
    kind = "png" if max(picture.size) <= LARGEST_SIDE else "jpeg"
    picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    stream = io.BytesIO()
    picture.save(stream, format=kind, optimize=kind == "png", quality=88)  # the quality of a JPEG
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"
