"""The causes that a verdict names, as short fixed words, and the way out of each."""

from __future__ import annotations

from enum import StrEnum


class Cause(StrEnum):
    """What is likely wrong with a scan. The words stand in `Reason.cause` and in `metrics.json`."""

    FLIP_X = "flip x"  # positions
    FLIP_Y = "flip y"
    FLIP_XY = "flip xy"
    SWAP_AXES = "swap axes"  # y and x of the positions; the same as patterns and probe both transposed
    SWAP_FLIP_X = "swap axes, flip x"  # swapped, then flipped: a quarter turn
    SWAP_FLIP_Y = "swap axes, flip y"
    SWAP_FLIP_XY = "swap axes, flip xy"
    DETECTOR_FLIP_X = "flip detector x"  # patterns, but not the probe
    DETECTOR_FLIP_Y = "flip detector y"
    DETECTOR_FLIP_XY = "flip detector xy"  # the same as a conjugated probe
    DETECTOR_TRANSPOSE = "transpose detector"
    DETECTOR_TRANSPOSE_FLIP_X = "transpose detector, flip detector x"
    DETECTOR_TRANSPOSE_FLIP_Y = "transpose detector, flip detector y"
    DETECTOR_TRANSPOSE_FLIP_XY = "transpose detector, flip detector xy"
    LAG = "lag"  # frames against positions, all of them or from a lost frame on
    UNITS = "units"  # of the positions
    ROTATION = "rotation"  # of the positions against the detector
    CENTRE = "centre"  # of the patterns against the probe
    POSITIONS = "positions"  # each off by its own error
    PROBE = "probe"
    INTENSITIES = "intensities"  # of the beam, from frame to frame
    BACKGROUND = "background"
    BAD_PIXELS = "bad pixels"
    SATURATION = "saturation"
    COUNTS = "unit of counts"  # of the patterns
    NO_RELATION = "no relation"  # between patterns and positions
