"""Result of a training, as the commands after it read it from the run folder."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..errors import FileFormatError, MismatchError
from ..files import hash_file, read_text

TRAINING_RESULT = "train-result.json"


class StoredScores(BaseModel):
    """Scores in the file of a training's result, whose other content is `search.training.results.TrainResult`.

    Attributes:
        miou: mean intersection over union in percent; None without a labelled pixel.
        per_class: class name -> intersection over union.
        scored_on: split of the images.
        scored_at: height and width at which labels were compared, or a text where these differ.
        weights_digest: digest of the file of the weights; None in results of earlier versions.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    miou: float | None
    per_class: dict[str, float | None] = Field(min_length=1)
    scored_on: str
    scored_at: tuple[int, int] | str
    weights_digest: str | None = None

    @classmethod
    def read(cls, run: Path) -> StoredScores | None:
        """Return the result in a run folder; None if it has none.

        Raises:
            FileFormatError: the file is damaged.
        """
        path = run / TRAINING_RESULT
        if not path.exists():
            return None
        try:
            return cls.model_validate_json(read_text(path, "training result"))
        except ValidationError as error:
            raise FileFormatError(f"{path} is a damaged training result: delete it, or train again") from error

    def require_weights(self, weights: Path) -> None:
        """Check that these are the weights with the scores; results of earlier versions are believed.

        Raises:
            MismatchError: the file has changed since.
        """
        if self.weights_digest not in (None, hash_file(weights)):
            raise MismatchError(
                f"{weights} has changed since its training: the mIoU in {TRAINING_RESULT} is that of other weights; "
                "score it with lgc-train --evaluate"
            )


def read_class_names(run: Path) -> tuple[str, ...] | None:
    """Return the names of the classes in a run folder's training result, in order; None if it has none.

    Raises:
        FileFormatError: the file is damaged.
    """
    result = StoredScores.read(run)
    return None if result is None else tuple(result.per_class)
