"""An image store without pixels, for decoded images that would not fit on the disk."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import numpy as np

from common.environment import processors
from common.errors import UserError
from data.store.decode import DamagedImage
from data.store.store import ImageStore


class StreamedStore(ImageStore):
    """Decodes images from their files each time, a batch in parallel, with the pixels and fingerprint of ``ImageStore``.

    Methods that return pixels raise UserError if a file has changed or vanished since ``data.store.build`` checked it.
    """

    @cached_property
    def _threads(self) -> int:
        """How many decode a batch: asked once, since the answer is in files of the system."""
        return processors()

    def mask(self, index: int) -> np.ndarray | None:
        if self.listing.masks is None:
            return None
        record = self._records[self._at(index)]
        return self.listing.mask(record["row"], tuple(record["original_size"].tolist()), int(record["turn"]))

    def _fill(self, targets: list[np.ndarray], rows: list[int]) -> None:
        # Pillow and numpy release the GIL.
        with ThreadPoolExecutor(self._threads, thread_name_prefix="decode") as pool:
            list(pool.map(self._decode, targets, rows))

    def _planes(self, index: int) -> np.ndarray:
        planes = np.empty((3, *self._records[self._at(index)]["size"]), np.uint8)
        self._decode(planes, index)
        return planes

    def _decode(self, target: np.ndarray, index: int) -> None:
        record = self._records[self._at(index)]
        try:
            decoded = self.listing.image(record["row"], self.short_side)
        except DamagedImage as reason:
            raise self._changed(index, str(reason)) from None
        if (decoded.image.height, decoded.image.width) != target.shape[1:]:
            raise self._changed(index, "another size")
        if decoded.source != record["source"].tobytes():
            raise self._changed(index, "other bytes")
        for plane, levels in zip(target, decoded.planes, strict=True):
            plane[:] = levels

    def _changed(self, index: int, how: str) -> UserError:
        return UserError(
            f"{self.root / self.names[index]}: has changed since the data were checked ({how}); the same command checks them anew"
        )
