"""How fast a collection goes: trajectories an hour, use of the device, padding."""

import time

from tabom.decoding.engine import Engine
from tabom.models.devices import Device, present_device
from tabom.models.sizes import sizes_of


class SpeedMeter:
    """Reads the counts of a decoder against the clock, which starts when this is made."""

    def __init__(self, decoder: Engine) -> None:
        model, self.counts = decoder.model, decoder.counts
        self._sizes = sizes_of(model.base_lm)
        device = present_device()
        # A model held on the CPU of a machine with a GPU has no peak here to be compared with.
        is_there = device.is_gpu == (model.device.type != "cpu")
        self._device: Device | None = device if is_there else None
        self._started = time.perf_counter()

    def report(self) -> dict[str, int | float]:
        """The counts so far, for logs and the manifest; empty before the first model call.

        decode_seconds: since the start. num_calls: model calls, each of one batch. num_tokens:
        through the layers, pads included. padding: the share of these that was padding.
        trajectories_per_hour. mfu: model FLOPs a second over the device's peak (of bfloat16
        products on a GPU, of float32 ones on a CPU); left out where that is not known.
        """
        counts, seconds = self.counts, time.perf_counter() - self._started
        if not counts.num_calls:
            return {}
        found: dict[str, int | float] = {
            "decode_seconds": round(seconds, 3),
            "num_calls": counts.num_calls,
            "num_tokens": counts.num_tokens,
            "padding": round(counts.padding, 4),
            "trajectories_per_hour": round(3600 * counts.num_finished / seconds, 1),
        }
        if self._device is not None:
            # The use is of the device's own peak, so it can be compared between devices.
            peak = self._device.tflops * 1e12
            found["mfu"] = round(counts.flops(self._sizes) / seconds / peak, 4)
        return found

    def note(self) -> str:
        """The same for a progress bar, short."""
        found = self.report()
        if not found:
            return ""
        parts = [f"{found['trajectories_per_hour']:.0f}/h", f"padding {found['padding']:.1%}"]
        if "mfu" in found:
            parts.insert(1, f"MFU {found['mfu']:.2f}")
        return ", ".join(parts)
