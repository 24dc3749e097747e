"""CamVid's standard split, which follows from the names of its frames."""

from __future__ import annotations

import re

# First test frame of the sequence 0001TP; first and last validation frame of 0016E5.
_TEST_0001TP = 8550
_VAL_0016E5 = (7959, 8159)


def official_split(stem: str) -> str | None:
    """Return the standard split (367 / 101 / 233) of an original frame, e.g. `0001TP_006690`; None for other names.

    Test is the sequence Seq05VD and the second half of 0001TP, validation the 15 Hz part of 0016E5, training the rest
    (Sturgess et al. 2009, and SegNet's copy).
    """
    match = re.fullmatch(r"(0001TP|0006R0|0016E5|Seq05VD)_f?(\d+)", stem)
    if match is None:
        return None
    sequence, frame = match[1], int(match[2])
    if sequence == "Seq05VD" or (sequence == "0001TP" and frame >= _TEST_0001TP):
        return "test"
    first, last = _VAL_0016E5
    return "val" if sequence == "0016E5" and first <= frame <= last else "train"
