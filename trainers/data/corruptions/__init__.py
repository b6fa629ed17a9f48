"""Everyday corruptions of images in five severities; one file = one family, one function = one corruption.

Source: Hendrycks, Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations", 2019.
The fifteen kinds are theirs. The strengths are our own: lengths are shares of the image's shorter side, so that a
severity means the same for 28 x 28 as for 224 x 224 pixels, and nothing is read from files.

Every function takes images (N, C, H, W), floating, in [0, 1], of one or three channels; a severity from 1 to 5; and a
generator on the CPU, which draws the same for every severity. It returns images of the same shape, dtype and device, in
[0, 1].
"""

from trainers.data.corruptions.corrupted import SEVERITIES, CorruptedImages, Corruption

__all__ = ["SEVERITIES", "CorruptedImages", "Corruption"]
