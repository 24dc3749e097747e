"""Write predicted classes in the format of the dataset's labels, as its evaluation scripts expect them."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

from PIL import Image

from ...errors import OutputError
from ...files import ensure_folder, write_atomic
from .datasets import SegmentationDataset
from .labels import LabelMap
from .layouts import LAYOUTS


class PredictionWriter:
    """Write the predictions for a dataset into one folder.

    Cityscapes: `<city>_<sequence>_<frame>_leftImg8bit_pred.png` in regular label ids, which
    `csEvalPixelLevelSemanticLabeling` reads with CITYSCAPES_RESULTS set to the folder. CamVid: a file with the label's
    name, in colours for the original layout, else in indices.

    Args:
        folder: Created if it does not exist; earlier predictions are overwritten.
        dataset: Dataset of the images.

    Raises:
        OutputError: The folder cannot be written, or predictions would overwrite files of the dataset.
    """

    def __init__(self, folder: Path, dataset: SegmentationDataset) -> None:
        layout = LAYOUTS[dataset.layout]
        self._encode = layout.encode
        self.paths = [folder / layout.prediction_name(pair) for pair in dataset.pairs]
        inputs = {path.resolve() for pair in dataset.pairs for path in (pair.image, pair.label) if path is not None}
        if inputs & {path.resolve() for path in self.paths}:
            raise OutputError(
                f"{folder} contains files of the dataset that predictions would overwrite: choose another folder"
            )
        ensure_folder(folder)

    def write(self, index: int, classes: LabelMap) -> None:
        """Write the classes of the dataset's image `index`, uint8 [H, W], 0..(num_classes - 1).

        Raises:
            OutputError: The file cannot be written.
        """
        buffer = BytesIO()
        Image.fromarray(self._encode(classes)).save(buffer, format="PNG", compress_level=3)
        write_atomic(self.paths[index], buffer.getvalue())
