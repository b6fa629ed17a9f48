"""Limits of the service."""

from dataclasses import dataclass

from trainers.data.image_files import MAX_PIXELS


@dataclass(frozen=True)
class Limits:
    """Bounds of the service; they bound its memory too.

    Attributes:
        max_bytes: of a request's body, compressed or not.
        max_pixels: width times height of an image; decoding takes four to eight bytes a pixel.
        max_images: of one request.
        max_waiting: images in work at one time; a request beyond them is answered with 503. Until its body is read a
            request counts as one.
        max_batch: images that the model takes at once.
        max_wait: seconds that an image waits for others while the model has nothing to do.
        timeout: seconds that a body may take to arrive, and that a verdict may take.
        n_decoders: threads that decode images.

    Raises:
        ValueError: a bound that lets nothing through.
    """

    max_bytes: int = 10_000_000
    max_pixels: int = 25_000_000
    max_images: int = 64
    max_waiting: int = 256
    max_batch: int = 32
    max_wait: float = 0.005
    timeout: float = 30.0
    n_decoders: int = 2

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_pixels", "max_images", "max_waiting", "max_batch", "n_decoders"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: expected an integer >= 1; got {value!r}")
        if self.max_pixels > MAX_PIXELS:
            raise ValueError(
                f"max_pixels: expected at most {MAX_PIXELS:,}, the most that is decoded; got {self.max_pixels}"
            )
        if not self.max_wait >= 0:
            raise ValueError(f"max_wait: expected seconds >= 0; got {self.max_wait!r}")
        if not self.timeout > 0:
            raise ValueError(f"timeout: expected seconds > 0; got {self.timeout!r}")

    @property
    def most_images(self) -> int:
        """Images of one request: no more than may be in work at all."""
        return min(self.max_images, self.max_waiting)
